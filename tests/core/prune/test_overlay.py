"""Kept tokens on the user's own picture: bright where they are, dimmed beside them, at the right place."""

import numpy as np

from attn.core.models.geometry import Geometry, PatchGrid
from attn.core.models.pictures import ColourPicture
from attn.core.prune.overlay import DIMMED, KEPT, MERGED, overlay


def picture(height, width):
    return ColourPicture(np.full((3, height, width), 0.8, np.float32), (height, width))


def drawn(geometry, owner, height=512, width=512):
    return overlay(picture(height, width), geometry, np.array(owner))


def test_a_kept_token_is_as_it_was_and_outlined():
    out = drawn(Geometry((512, 512), 0, 0, (PatchGrid(0, (2, 2), (0.0, 0.0, 512.0, 512.0)),)), [0, -1, -1, -1])
    assert (out[128, 128] == 204).all()
    assert (out[400, 400] == round(204 * DIMMED)).all()
    assert (out[0, 100] == KEPT).all()
    assert (out[255, 100] == KEPT).all()
    assert not (out[256, 100] == KEPT).all()


def test_what_was_cut_off_is_pale():
    out = drawn(Geometry((512, 512), 0, 0, (PatchGrid(0, (1, 1), (128.0, 0.0, 384.0, 512.0)),)), [0])
    assert (out[50, 50] == round(204 * 0.5 + 127.5)).all()
    assert (out[200, 256] == 204).all()


def test_tokens_beyond_the_edge_are_not_drawn_inside():
    padded = Geometry((256, 512), 0, 0, (PatchGrid(0, (2, 1), (-128.0, 0.0, 384.0, 512.0)),))
    out = drawn(padded, [0, -1], 256)
    assert (out[60, 256] == 204).all()
    assert (out[127, 256] == KEPT).all()
    assert (out[200, 256] == round(204 * DIMMED)).all()


def test_the_picture_may_have_been_read_smaller_than_its_file():
    tile = PatchGrid(0, (1, 2), (0.0, 0.0, 5000.0, 8000.0))
    out = overlay(
        ColourPicture(np.full((3, 320, 512), 0.8, np.float32), (5000, 8000)),
        Geometry((5000, 8000), 0, 0, (tile,)), np.array([-1, 1]),
    )  # fmt: skip
    assert out.shape == (320, 512, 3)
    assert (out[160, 384] == 204).all()
    assert (out[160, 128] == round(204 * DIMMED)).all()


def test_merged_tokens_have_one_frame():
    out = drawn(Geometry((512, 512), 0, 0, (PatchGrid(0, (1, 4), (0.0, 0.0, 512.0, 512.0)),)), [0, 0, 2, -1])
    assert (out[256, 0] == MERGED).all()
    assert (out[256, 127] == 204).all()  # between the two
    assert (out[256, 255] == MERGED).all()
    assert (out[256, 256] == KEPT).all()


def test_tiles_share_a_pixel():
    tiles = (PatchGrid(0, (1, 1), (0.0, 0.0, 512.0, 512.0)), PatchGrid(2, (1, 1), (0.0, 0.0, 512.0, 512.0)))
    out = drawn(Geometry((512, 512), 0, 0, tiles, suffix=1), [0, 1, -1, 3])
    assert abs(int(out[256, 256, 0]) - 204 * (DIMMED + (1 - DIMMED) / 2)) <= 1


def test_a_token_that_others_were_merged_into_has_another_frame():
    geometry = Geometry((512, 512), 0, 0, (PatchGrid(0, (1, 2), (0.0, 0.0, 512.0, 512.0)),))
    out = overlay(picture(512, 512), geometry, np.array([0, 1]), {1})
    assert (out[256, 0] == KEPT).all()
    assert (out[256, 256] == MERGED).all()
