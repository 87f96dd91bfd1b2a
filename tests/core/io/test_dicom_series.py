from pathlib import Path

import numpy as np
import pydicom
import pytest

from attn.core.io import read_grey, series_key, sort_series


def test_head_series_is_sorted_and_its_traps_are_named(dicom_dir):
    paths = sorted((dicom_dir / "series_ge_head_tilt").glob("*.dcm"), reverse=True)
    (series,) = sort_series(paths)
    assert [path.stem for path in series] == [str(number) for number in range(11, 19)]
    # the data's README gives steps of the table; the gantry is tilted by 18.5 degrees against it
    table = np.array([4.22] * 3 + [1.14] + [7.38] * 3)
    np.testing.assert_allclose(np.diff(series.positions), table * np.cos(np.radians(18.5)), atol=0.01)
    assert any("unequal slice spacing: 1.08 to 7.00 mm" in text for text in series.warnings)
    assert any("thickness changes: 4, 7 mm" in text for text in series.warnings)


def test_images_and_paths_are_grouped_alike(dicom_dir):
    paths = [dicom_dir / name for name in ("series_ge_head_tilt/14.dcm", "series_ge_head_tilt/12.dcm")]
    by_path, by_image = sort_series(paths), sort_series([read_grey(path) for path in paths])
    assert [series.key for series in by_path] == [series.key for series in by_image]
    assert list(by_path[0].items) == [image.path for image in by_image[0].items]
    assert series_key(read_grey(paths[0])) == series_key(read_grey(paths[1]))


def test_localizers_and_multi_frame_files_stand_alone_and_others_in_no_series(dicom_dir, tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    scout = dicom_dir / "ct/ge_hispeed_chest_400x512_jpegll.dcm"
    stack = dicom_dir / "enhanced/enhanced_ct_2frames.dcm"
    found = sort_series([scout, tmp_path / "x.png", stack, tmp_path / "missing.dcm", dicom_dir / "broken/empty.dcm"])
    assert [series.items for series in found] == [(scout,), (stack,)]
    assert [series.localizer for series in found] == [True, False]


def slices(folder: Path, make_dicom, positions, **elements) -> list[Path]:
    paths = []
    for number, z in enumerate(positions):
        path = folder / f"{number}.dcm"
        own = {key: value[number] for key, value in elements.items()}
        if z is not None:
            own |= {"ImagePositionPatient": [0, 0, z], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        make_dicom(
            path, np.zeros((4, 4), np.int16), SOPInstanceUID=f"1.2.{number + 1}", InstanceNumber=9 - number, **own
        )
        paths.append(path)
    return paths


def test_duplicates_and_mixed_sizes_are_named(tmp_path, make_dicom):
    paths = slices(tmp_path, make_dicom, [4, 2, 2, 0])
    make_dicom(tmp_path / "big.dcm", np.zeros((8, 4), np.int16), ImagePositionPatient=[0, 0, 6], SOPInstanceUID="1.9",
               ImageOrientationPatient=[1, 0, 0, 0, 1, 0], InstanceNumber=1)  # fmt: skip
    (series,) = sort_series([*paths, tmp_path / "big.dcm"])
    assert series.positions == (0, 2, 2, 4, 6)
    assert "1 slice at the position of another one (duplicates)" in series.warnings
    assert "mixed sizes: 4 x 4, 8 x 4" in series.warnings


def test_without_positions_the_instance_number_decides(tmp_path, make_dicom):
    (series,) = sort_series(slices(tmp_path, make_dicom, [None, None, None]))
    assert [path.stem for path in series] == ["2", "1", "0"]
    assert series.positions == ()
    assert "ordered by InstanceNumber" in series.warnings[0]


def test_reading_headers_leaves_the_pixels_alone(tmp_path, make_dicom, monkeypatch):
    paths = slices(tmp_path, make_dicom, [0, 1])
    seen = []
    original = pydicom.dcmread

    def spy(*args, **kwargs):
        seen.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(pydicom, "dcmread", spy)
    sort_series(paths)
    assert [call["stop_before_pixels"] for call in seen] == [True, True]


@pytest.mark.parametrize("bad", ["abc", "1\\2", "nan"])
def test_damaged_positions_count_as_missing(bad, tmp_path, make_dicom):
    paths = slices(tmp_path, make_dicom, [0, 1])
    data = paths[0].read_bytes()
    start = data.index(b"\x20\x00\x32\x00DS") + 8
    length = int.from_bytes(data[start - 2 : start], "little")
    paths[0].write_bytes(data[:start] + bad.encode().ljust(length)[:length] + data[start + length :])
    (series,) = sort_series(paths)
    assert len(series) == 2
    assert series.positions == ()
