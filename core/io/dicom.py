"""Everything about DICOM files in one place: reading, writing, sorting into series."""

from __future__ import annotations

from .dicom_read import DicomSource, read_dicom
from .dicom_series import Series, read_info, series_key, slice_info, sort_series
from .dicom_write import derived_uid, write_dicom

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
