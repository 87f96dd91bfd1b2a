"""Where slices lie: from DICOM headers, functional groups and NIfTI affines."""

import numpy as np
import pytest

from attn.core.io import read_grey
from attn.core.io.dicom.series import read_info
from attn.core.io.place import place_of


def test_a_tilted_gantry_moves_the_first_pixel_from_slice_to_slice(dicom_dir):
    infos = [read_info(dicom_dir / f"series_ge_head_tilt/{number}.dcm") for number in range(11, 19)]
    first, *others = (info["places"][0] for info in infos)
    assert "KVP" in dict(first.marks)
    steps = [place.seen_from(first) for place in others]
    table = np.cumsum([4.22] * 3 + [1.14] + [7.38] * 3)  # the data's README: mm along the table
    tilt = np.radians(18.5)
    np.testing.assert_allclose([step[0] for step in steps], table * np.cos(tilt), atol=0.01)
    np.testing.assert_allclose([step[1] * 0.4883 for step in steps], -table * np.sin(tilt), atol=0.02)
    np.testing.assert_allclose([step[2] for step in steps], 0, atol=1e-6)


def test_frames_lie_where_their_functional_groups_say(dicom_dir):
    image = read_grey(dicom_dir / "enhanced/enhanced_ct_2frames.dcm")
    first, second = image.places
    np.testing.assert_allclose(second.seen_from(first), (-10, 0, 0), atol=1e-6)
    assert ("StackID", "1") in first.marks
    assert read_grey(dicom_dir / "enhanced/enhanced_mr_10frames_jpegls.dcm").places == ()


def test_one_frame_of_a_file_without_a_position_is_nowhere(tmp_path, make_dicom):
    make_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.int16), ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
               PixelSpacing=[1, 1], EchoNumbers=3)  # fmt: skip
    assert read_grey(tmp_path / "a.dcm").places == (None,)
    make_dicom(tmp_path / "b.dcm", np.zeros((4, 4), np.int16), ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
               ImagePositionPatient=[0, 0, 1], PixelSpacing=[1, 1], EchoNumbers=3)  # fmt: skip
    (place,) = read_grey(tmp_path / "b.dcm").places
    assert dict(place.marks)["EchoNumbers"] == "3"


@pytest.mark.parametrize(("affine", "known"), [(None, False), (np.diag([0.5, 0.7, 3.0, 1.0]), True)])
def test_nifti_slices_lie_along_the_third_axis(tmp_path, affine, known):
    import nibabel

    if known:
        affine[1, 2] = 0.7  # sheared: every slice begins one row further
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4), np.int16), affine), tmp_path / "v.nii")
    places = read_grey(tmp_path / "v.nii").places
    assert len(places) == (4 if known else 0)
    if known:
        np.testing.assert_allclose(places[3].seen_from(places[0]), (9, 3, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("across", "down", "spacing"),
    [((0, 0, 0), (0, 1, 0), (1, 1)), ((1, 0, 0), (1, 0, 0), (1, 1)), ((1, 0, 0), (0, 1, 0), (0, 1)),
     ((1, 0, float("nan")), (0, 1, 0), (1, 1))],
)  # fmt: skip
def test_what_spans_no_plane_is_no_place(across, down, spacing):
    assert place_of((0, 0, 0), across, down, spacing) is None
