"""Which slices form a volume: what does not belong together is not mixed, and what is odd is told."""

from dataclasses import replace

import numpy as np
import pytest

from attn.core.denoise.volumes import Located, find_volumes
from attn.core.io.place import place_of


def located(mm, name, *, size=(8, 8), tilt=0.0, turned=False, spacing=(1.0, 1.0), uid="", frame="f", **marks):
    """A slice ``mm`` along the table, seen under a gantry tilt in degrees."""
    if mm is None:
        return Located(None, size, uid, name)
    angle = np.radians(tilt)
    down = (0, np.cos(angle), -np.sin(angle))
    across = (0, 0, 1) if turned else (1, 0, 0)
    place = place_of(
        (mm, 0, 0) if turned else (0, 0, mm),
        across,
        (0, 1, 0) if turned else down,
        spacing,
        frame,
        tuple(marks.items()),
    )
    return Located(place, size, uid, name)


def test_order_is_by_position_and_a_tilt_is_an_offset():
    slices = [located(mm, f"{mm}", tilt=30) for mm in (8, 0, 4)]
    (volume,), notes = find_volumes(slices)
    assert notes == []
    assert volume.members == (1, 2, 0)
    np.testing.assert_allclose(np.diff(volume.geometry.positions), 4 * np.cos(np.radians(30)))
    rows = [offset[0] for offset in volume.geometry.offsets]
    np.testing.assert_allclose(np.diff(rows), -4 * np.sin(np.radians(30)))
    assert volume.rank == {1: 0, 2: 1, 0: 2}


def test_slices_without_a_position_are_alone():
    slices = [located(0, "a"), located(None, "b"), located(3, "c"), located(None, "d")]
    (volume,), notes = find_volumes(slices)
    assert volume.members == (0, 2)
    assert notes == ["2 slices (b, d) without a position in the header: denoised alone"]
    assert find_volumes(slices[1::2])[0] == []


@pytest.mark.parametrize(
    "other", [{"turned": True}, {"size": (8, 9)}, {"spacing": (1.0, 1.1)}, {"frame": "g"}], ids=str
)
def test_slices_of_another_kind_are_another_volume(other):
    slices = [located(mm, f"{mm}", **(other if mm % 2 else {})) for mm in range(6)]
    volumes, notes = find_volumes(slices)
    assert sorted(volume.members for volume in volumes) in ([(0, 2, 4), (1, 3, 5)], [(0, 2, 4), (5, 3, 1)])
    assert "are not mixed: 3 like 0, 3 like 1" in notes[0]


def test_one_slice_of_another_kind_is_alone():
    volumes, notes = find_volumes([located(0, "a"), located(1, "b"), located(2, "c", size=(4, 4))])
    assert [volume.members for volume in volumes] == [(0, 1)]
    assert "1 like c" in notes[0]


def test_copies_share_the_neighbours_and_count_once():
    (volume,), notes = find_volumes([located(mm, f"{k}", uid=f"u{mm}") for k, mm in enumerate((0, 2, 2, 4))])
    assert volume.members == (0, 1, 3)
    assert volume.rank == {0: 0, 1: 1, 2: 1, 3: 2}
    assert notes == ["1 copy of other slices (same SOPInstanceUID)"]


def test_one_uid_for_all_slices_makes_no_copies():
    (volume,), notes = find_volumes([located(mm, f"{mm}", uid="u") for mm in (0, 2, 4)])
    assert volume.members == (0, 1, 2)
    assert notes == []


def test_acquisitions_in_one_place_are_told_apart_by_the_header():
    slices = [
        located(mm, f"{echo}-{mm}", EchoNumbers=echo, AcquisitionNumber=str(mm), ImageType="A")
        for echo in ("1", "2") for mm in (0, 2, 4)
    ]  # fmt: skip
    volumes, notes = find_volumes(slices)
    assert [volume.members for volume in volumes] == [(0, 1, 2), (3, 4, 5)]
    assert notes == ["positions repeat: 2 acquisitions by EchoNumbers, which are not mixed"]


def test_two_words_tell_apart_what_one_does_not():
    slices = [
        located(mm, f"{echo}{phase}{mm}", EchoNumbers=echo, TriggerTime=phase)
        for echo in "12" for phase in "12" for mm in (0, 2)
    ]  # fmt: skip
    volumes, notes = find_volumes(slices)
    assert len(volumes) == 4
    assert "by EchoNumbers and TriggerTime" in notes[0]


def test_what_cannot_be_told_apart_is_alone():
    slices = [located(mm, f"{k}", uid=f"{k}", AcquisitionNumber=f"{k}") for k, mm in enumerate((0, 2, 2, 4, 6, 8))]
    (volume,), notes = find_volumes(slices)
    assert volume.members == (0, 3, 4, 5)
    assert "2 slices (1, 2) where another one lies" in notes[0]
    assert "gap" in notes[1]
    phases = [located(mm, f"{phase}{mm}") for phase in "ab" for mm in (0, 2)]
    assert find_volumes(phases)[0] == []


def test_thick_slices_have_no_gap():
    slices = [replace(located(mm, f"{mm}"), thickness=4 if mm > 3 else 2) for mm in (0, 2, 4, 8, 12)]
    assert find_volumes(slices)[1] == []


def test_gaps_are_told():
    (_,), notes = find_volumes([located(mm, f"{mm}") for mm in (0, 2, 4, 8, 10)])
    assert notes == ["1 gap wider than the usual 2 mm, the first of 4 mm between 4 and 8: is a slice missing?"]
