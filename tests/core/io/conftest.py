"""The DICOM files of the shared data by name (data/dicom/README.md says what each of them tests), and some made here.

A test with the argument ``good_dicom`` or ``colour_dicom`` runs once per file, one with ``broken_dicom`` once per
(name, what its message must say).
"""

import numpy as np
import pytest

from attn.core import memory

CT = [
    "ct/ge_hispeed_chest_400x512_jpegll.dcm",
    "ct/ge_lightspeed_vct_abdomen.dcm",
    "ct/ge_rhapsode_128_small.dcm",
    "ct/hitachi_supria_j2k_pixelrep_mismatch.dcm",
    "ct/philips_ingenuity_phantom_noext",
    "ct/siemens_sensation64_heart_b25f_j2k_lossy.dcm",
    "ct/toshiba_aquilion_one_chest_1mm.dcm",
]
SERIES = [f"series_ge_head_tilt/{number}.dcm" for number in range(11, 19)]
COMPRESSED = [f"compressed/ge_hispeed_cti_{word}.dcm" for word in ("bigendian", "deflated", "jpeg12_lossy")] + [
    f"compressed/toshiba_xpressgx_{word}.dcm" for word in ("j2k", "j2k_lossy", "jpegll", "jpegls", "jpegls_near", "rle")
]
ENHANCED = [
    "enhanced/enhanced_ct_2frames.dcm",
    "enhanced/enhanced_ct_2frames_fragmented_no_bot.dcm",
    "enhanced/enhanced_mr_10frames_jpegls.dcm",
]
GREY_OTHER = [
    "other/ct_8bit_abdomen_no_hu.dcm",
    "other/mr_siemens_trio_256.dcm",
    "other/mr_small.dcm",
    "other/mr_small_bigendian.dcm",
    "other/mr_small_padded.dcm",
]
COLOUR = ["other/no_pixel_spacing.dcm", "other/secondary_capture_rgb_odd.dcm", "other/us_palette.dcm"]
GOOD = CT + SERIES + COMPRESSED + ENHANCED + GREY_OTHER

BROKEN = {
    "bad_vr": "NumberOfFrames that is no number",
    "ct_jpegls_cut_in_half": "cut off or damaged",
    "ct_raw_cut_at_30_percent": "expected 524288 bytes, found 155928",
    "empty": "empty",
    "explicit_vr_no_meta": "RT Ion Plan",
    "ge_hispeed_cti_retired_jpeg_progressive": r"JPEG Full Progression.*dcmdjpeg",
    "j2k_too_short": "cut off or damaged",
    "meta_missing_tsyntax": "lacks Rows",
    "mr_truncated_pixels": "expected 8192 bytes, found 8130",
    "no_meta": "is not DICOM",
    "no_pixel_data": "Basic Text SR",
    "no_rows": "lacks Rows",
    "rtplan_no_pixels": "RT Plan",
    "rtplan_truncated": "RT Plan",
    "structured_report_no_pixels": "Comprehensive SR",
    "text_named_dcm": "is not DICOM: it is text",
    "un_sequence": "cut off or damaged",
}
"""Name of the file -> what its one line must say."""


def pytest_generate_tests(metafunc):
    for name, values in (("good_dicom", GOOD), ("colour_dicom", COLOUR), ("broken_dicom", list(BROKEN.items()))):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values, ids=[value if isinstance(value, str) else value[0] for value in values])


@pytest.fixture(scope="session")
def make_dicom():
    return _make


def _make(path, stored, **elements):
    """A small CT data set with ``stored`` [H, W] or [Z, H, W] as pixels, saved to ``path``; returns the data set."""
    from pydicom import dcmwrite
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    stored = np.asarray(stored)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2.3", "1.2.3.9", "CT"
    dataset.PatientName, dataset.PatientID = "Test", "1"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        dataset.NumberOfFrames = len(stored)
    dataset.BitsAllocated = dataset.BitsStored = 8 * stored.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(stored.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = elements.pop("syntax", ExplicitVRLittleEndian)
    data = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset.add_new("PixelData", "OW", data + b"\0" * (len(data) % 2))
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dcmwrite(path, dataset, enforce_file_format=True)
    return dataset


@pytest.fixture
def set_budget():
    """Sets what one input may take, for this test."""
    yield memory.set_budget
    memory.set_budget(None)
