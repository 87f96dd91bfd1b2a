"""Which files share a filter."""

from pathlib import Path

import numpy as np

from attn.core.denoise.series import group_series


def test_dicom_series_in_slice_order_with_what_is_odd(dicom_dir):
    folder = dicom_dir / "series_ge_head_tilt"
    paths = sorted(folder.iterdir(), reverse=True)
    (group,) = group_series(paths)
    assert sorted(group.paths) == sorted(paths)
    assert any("spacing" in text for text in group.warnings)
    assert any("thickness" in text for text in group.warnings)


def test_other_kinds_are_one_series_per_directory_and_suffix(tmp_path):
    paths = [tmp_path / name for name in ("b.npy", "a.npy", "x.png", "sub/c.npy")]
    assert [group.paths for group in group_series(paths)] == [(paths[0], paths[1]), (paths[2],), (paths[3],)]


def test_every_path_is_in_one_group(dicom_dir, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    paths = [tmp_path / "a.npy", *sorted((dicom_dir / "broken").iterdir()), *sorted((dicom_dir / "ct").iterdir())]
    found = [path for group in group_series(paths) for path in group.paths]
    assert sorted(found) == sorted(paths)
    assert isinstance(found[0], Path)
