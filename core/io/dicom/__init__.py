"""Everything about DICOM files in one place: reading, writing, sorting into series."""

from __future__ import annotations

from .read import DicomSource, read_dicom
from .series import Series, read_info, series_key, slice_info, sort_series
from .write import derived_uid, write_dicom

__all__ = [
    "DicomSource",
    "Series",
    "derived_uid",
    "read_dicom",
    "read_info",
    "series_key",
    "slice_info",
    "sort_series",
    "write_dicom",
]
