"""Visual tokens are where the model looked: the token that a pixel changes most is the one whose box holds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_vlms import NAMES, coloured, loaded_vlm
from torch import Tensor
from transformers.image_utils import SizeDict

from attn.core.models.loaded import Loaded
from attn.core.models.pictures import ColourPicture
from attn.core.prune.engine.sites import site_of
from attn.core.prune.vlm.ask import PreparedPrompt, prepare

SHAPES = {"square": (48, 48), "wide": (41, 96), "tall": (150, 60), "odd": (37, 33)}


@torch.no_grad()
def features(loaded: Loaded, prepared: PreparedPrompt) -> Tensor:
    """What the language model gets in the places of visual tokens, [V, D]."""
    site, seen = site_of(loaded.model), []
    hook = site.text.register_forward_pre_hook(lambda *given: seen.append(given[2]["inputs_embeds"]), with_kwargs=True)
    loaded.model(**prepared.inputs)
    hook.remove()
    visual = torch.isin(prepared.inputs["input_ids"][0], torch.tensor(site.tokens))
    return seen[0][0, visual]


def marked(picture: ColourPicture, box: tuple[int, int, int, int]) -> ColourPicture:
    top, left, bottom, right = box
    pixels = picture.pixels.copy()
    pixels[:, top:bottom, left:right] = 1 - pixels[:, top:bottom, left:right].round()
    return ColourPicture(pixels, picture.size)


def check_places(loaded: Loaded, picture: ColourPicture) -> None:
    """Pixels that change, change most the tokens that hold them."""
    height, width = picture.size
    before = prepare(loaded, [picture], "what is it")
    geometry, plain = before.pictures[0], features(loaded, before)
    assert geometry.count == len(plain)
    boxes, generator = geometry.boxes(), np.random.default_rng(0)
    for _ in range(3):
        y, x = int(generator.integers(height - 2)), int(generator.integers(width - 2))
        after = features(loaded, prepare(loaded, [marked(picture, (y, x, y + 3, x + 3))], "what is it"))
        change = (after - plain).norm(dim=1)[geometry.patches()]
        middle = torch.tensor([y + 1.5, x + 1.5])
        near, reached = (
            ((boxes[:, :2] - by <= middle) & (middle <= boxes[:, 2:] + by)).all(1) for by in (1.5, 6)
        )  # half a mark; and as far as resizing mixes pixels
        if near.any():
            assert near[change.argmax()]
        elif not reached.any():  # cut off by the processor
            assert not change.any()
        start = 0
        for tile in geometry.tiles:  # each part of the picture and the whole agree
            own = slice(start, start := start + len(tile.tokens))
            assert tile.grid[0] == 1 or not near[own].any() or near[own][change[own].argmax()]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [*NAMES, "llava siglip"])
def test_a_token_holds_the_pixels_that_change_it(name: str, shape: str) -> None:
    check_places(loaded_vlm(name), coloured(*SHAPES[shape]))


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("llava", "do_resize", False),
        ("llava", "size", SizeDict(shortest_edge=60)),
        ("llava", "size", SizeDict(shortest_edge=33)),
        ("llava", "size", SizeDict(height=50, width=70)),
        ("llava padded", "size", SizeDict(shortest_edge=41)),
        ("idefics3", "do_image_splitting", False),
        ("smolvlm", "do_resize", False),
        ("smolvlm", "size", SizeDict(longest_edge=32)),
        ("internvl", "max_patches", 1),
        ("internvl", "max_patches", 12),
        ("qwen2-vl", "do_resize", True),
    ],
)
def test_settings_of_processors_are_followed(
    name: str, setting: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loaded_vlm(name)
    monkeypatch.setattr(loaded.processor.joint.image_processor, setting, value)
    for size in ((96, 40), (40, 64), (30, 30)):
        check_places(loaded, coloured(*size))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_a_prompt_are_numbered_through(name: str) -> None:
    loaded = loaded_vlm(name)
    pair = [coloured(40, 60), coloured(70, 30, seed=1)]
    both = prepare(loaded, pair, "what is it")
    alone = [prepare(loaded, [picture], "what is it") for picture in pair]
    assert both.tokens == sum(each.tokens for each in alone)
    plain = features(loaded, both)
    for number, (geometry, each) in enumerate(zip(both.pictures, alone, strict=True)):
        assert geometry.count == both.tokens
        assert torch.equal(geometry.boxes(), each.pictures[0].boxes())
        single = features(loaded, each)[each.pictures[0].patches()]
        torch.testing.assert_close(plain[geometry.patches()], single, atol=1e-4, rtol=0)
        assert geometry.on_pixels(np.arange(both.tokens)).shape == pair[number].size


def test_padding_is_what_lies_beyond_the_picture() -> None:
    wide = prepare(loaded_vlm("llava padded"), [coloured(24, 48)], "what is it").pictures[0]
    assert wide.padding().view(6, 6).mean(1).tolist() == pytest.approx([1, 0.5, 0, 0, 0.5, 1])
    assert wide.tiles[0].box == (-12, 0, 36, 48)
    tall = prepare(loaded_vlm("llava-next"), [coloured(90, 37)], "what is it").pictures[0]
    assert tall.tiles[1].box[0] < 0  # one row of pixels of the canvas that was padded
    assert tall.padding()[16:20].tolist() == pytest.approx([1 / 8] * 4)
    assert not prepare(loaded_vlm("qwen2-vl"), [coloured(60, 20)], "what is it").pictures[0].padding().any()


def test_boxes_are_in_pixels_of_the_file() -> None:
    picture = coloured(40, 60)
    reduced = ColourPicture(picture.pixels, (80, 180))
    for name in NAMES:
        own, whole = (prepare(loaded_vlm(name), [given], "what is it").pictures[0] for given in (picture, reduced))
        assert whole.size == (80, 180)
        torch.testing.assert_close(whole.boxes(), own.boxes() * torch.tensor([2, 3, 2, 3]), check_dtype=False)


@pytest.mark.parametrize("name", ["llava", "llava padded", "smolvlm", "idefics3", "internvl", "llava-next"])
def test_sizes_of_any_kind(name: str) -> None:
    """Counts and tiles are those of the processors for pictures of all aspect ratios."""
    loaded, generator = loaded_vlm(name), np.random.default_rng(1)
    for height, width in [*generator.integers(1, 200, (12, 2)).tolist(), (1, 200), (200, 1), (1, 1)]:
        assert prepare(loaded, [coloured(height, width)], "what is it").tokens


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen2.5-vl"])
def test_frames_of_a_video(name: str) -> None:
    loaded = loaded_vlm(name)
    frames = [coloured(40, 60, seed) for seed in range(5)]
    before = prepare(loaded, frames, "what is it", video=True)
    plain = features(loaded, before)
    assert [picture.tiles[0].start for picture in before.pictures] == [0, 0, 40, 40, 80]
    assert {picture.count for picture in before.pictures} == {len(plain), 120}
    for number in range(5):
        changed = [*frames[:number], marked(frames[number], (11, 33, 14, 36)), *frames[number + 1 :]]
        change = (features(loaded, prepare(loaded, changed, "what is it", video=True)) - plain).norm(dim=1)
        tokens, boxes = before.pictures[number].patches(), before.pictures[number].boxes()
        most = int(change.argmax())
        assert most in tokens
        top, left, bottom, right = boxes[tokens.tolist().index(most)].tolist()
        assert top <= 12.5 <= bottom
        assert left <= 34.5 <= right
