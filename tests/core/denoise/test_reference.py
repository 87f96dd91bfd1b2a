"""A reference is in the unit and of the place of its image, or refused with a reason."""

import numpy as np
import pydicom
import pytest

from attn.core.denoise.options import DenoiseOptions
from attn.core.denoise.reference import read_reference
from attn.core.denoise.run import run
from attn.core.errors import InputError
from attn.core.io import read_grey, write

HU = np.random.default_rng(0).normal(40, 25, (24, 24)).round()
GEOMETRY = {
    "PixelSpacing": [1, 1], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 0],
}  # fmt: skip


def save(path, stored, **elements):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.2", "1.2.3", "CT"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = np.asarray(stored, np.uint16).tobytes()
    for keyword, value in {**GEOMETRY, **elements}.items():
        setattr(dataset, keyword, value)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


@pytest.fixture
def scan(tmp_path):
    return read_grey(save(tmp_path / "scan.dcm", HU + 1024))


def denoised(path, reference, out):
    (item,) = run([str(path)], out, DenoiseOptions(method="bilateral", reference=reference)).items
    return item


def test_equal_activity_with_other_slopes_is_equal(tmp_path):
    counts = np.random.default_rng(1).integers(0, 500, (24, 24))
    pet = {"Modality": "PT", "Units": "BQML", "RescaleIntercept": 0}
    one = save(tmp_path / "a.dcm", counts * 4, RescaleSlope="0.37", **pet)
    two = save(tmp_path / "b.dcm", counts, RescaleSlope="1.48", **pet)
    item = denoised(one, two, tmp_path / "out.dcm")
    assert item.metrics["psnr_noisy"] == np.inf
    assert item.metrics["rmse_noisy"] == 0
    assert "rmse_hu" not in item.metrics
    assert item.unit == "Bq/ml"
    assert any("equals the image" in text for text in item.warnings)
    other = save(tmp_path / "c.dcm", counts, RescaleSlope="1.48", **{**pet, "Units": "CNTS"})
    with pytest.raises(InputError, match=r"values in counts, the image values in Bq/ml"):
        read_reference(read_grey(one), other)


def test_slopes_that_change_along_a_series(tmp_path):
    counts = np.random.default_rng(1).integers(50, 100, (24, 24)) * 4
    pet = {"Modality": "PT", "Units": "BQML", "RescaleIntercept": 0, "SeriesInstanceUID": "1.2.9"}
    for number, (slope, divisor) in enumerate((("0.5", 1), ("2", 4))):  # the same activity in both
        save(
            tmp_path / f"{number}.dcm", counts // divisor, RescaleSlope=slope, SOPInstanceUID=f"1.2.3.{number}",
            **{**pet, "ImagePositionPatient": [0, 0, number]},
        )  # fmt: skip
    options = DenoiseOptions(method="bilateral", fit_on="first")
    items = run([str(tmp_path / f"{number}.dcm") for number in (0, 1)], tmp_path / "out", options).items
    assert items[0].details["window"] == items[1].details["window"]
    assert items[0].metrics["noise_std_before"] == items[1].metrics["noise_std_before"]
    one, two = (read_grey(item.output) for item in items)
    assert np.abs(one.pixels - two.pixels).max() <= 0.25 + 1.0  # half a step of storage each
    assert (one.source.slope[0], two.source.slope[0]) == (0.5, 2.0)


def test_hu_keeps_its_name(scan, tmp_path):
    clean = save(tmp_path / "clean.dcm", np.full((24, 24), 1064), RescaleSlope=1)
    item = denoised(scan.path, clean, tmp_path / "out.dcm")
    assert item.metrics["rmse_hu_noisy"] == pytest.approx(np.sqrt(((HU - 40) ** 2).mean()))
    assert "rmse" not in item.metrics


def test_screen_values_are_no_hu(scan, tmp_path):
    write(tmp_path / "clean.png", np.linspace(0, 255, 576).reshape(24, 24).astype(np.uint8))
    with pytest.raises(InputError, match=r"8-bit values without a unit, the image values in HU\. .*--unit hu"):
        read_reference(scan, tmp_path / "clean.png")
    write(tmp_path / "clean.npy", np.full((24, 24), 40, np.float32))
    with pytest.raises(InputError, match="without a unit"):
        read_reference(scan, tmp_path / "clean.npy")
    clean = read_reference(scan, tmp_path / "clean.npy", unit="hu")  # unless the user says that they are
    np.testing.assert_array_equal(clean.pixels[0], 40)
    plain = save(tmp_path / "plain.dcm", HU + 1024, RescaleSlope=None, RescaleIntercept=None)
    with pytest.raises(InputError, match="stored values without a rescale"):
        read_reference(scan, plain)


def test_what_is_called_hu_and_is_not(scan, tmp_path):
    np.save(tmp_path / "share.npy", (HU + 1024) / 4095)
    with pytest.raises(InputError, match="Bring both to the same unit"):
        read_reference(scan, tmp_path / "share.npy", unit="hu")
    np.save(tmp_path / "stored.npy", HU + 1024)
    (warning,) = read_reference(scan, tmp_path / "stored.npy", unit="hu").warnings
    assert warning == "the reference lies 1024 above the image on average: is it in the same unit?"
    np.save(tmp_path / "right.npy", HU + 5)
    assert not read_reference(scan, tmp_path / "right.npy", unit="hu").warnings


def test_pictures_of_other_depths_are_refused(tmp_path):
    picture = np.random.default_rng(2).integers(0, 255, (24, 24))
    write(tmp_path / "deep.png", (picture * 257).astype(np.uint16))
    write(tmp_path / "flat.png", picture.astype(np.uint8))
    with pytest.raises(InputError, match="up to 255, the image up to 65535"):
        read_reference(read_grey(tmp_path / "deep.png"), tmp_path / "flat.png")
    write(tmp_path / "share.npy", (picture / 255).astype(np.float32))
    with pytest.raises(InputError, match="same unit"):
        read_reference(read_grey(tmp_path / "flat.png"), tmp_path / "share.npy")


@pytest.mark.parametrize(
    ("elements", "says"),
    [
        ({"PixelSpacing": [2, 2]}, "2 x 2 mm, the image of 1 x 1 mm"),
        ({"ImageOrientationPatient": [0, 1, 0, -1, 0, 0]}, "ImageOrientationPatient"),
    ],
)
def test_another_place_is_refused(elements, says, scan, tmp_path):
    with pytest.raises(InputError, match=says):
        read_reference(scan, save(tmp_path / "other.dcm", HU + 1024, **elements))


def test_what_a_user_should_know_of_a_reference(scan, tmp_path):
    beside = read_reference(scan, save(tmp_path / "b.dcm", HU + 1030, ImagePositionPatient=[0, 0, 5]))
    assert any("5.0 mm beside" in text for text in beside.warnings)
    assert any("the image itself" in text for text in read_reference(scan, scan.path).warnings)
    with pytest.raises(InputError, match="is 23 x 24, the image 24 x 24"):
        read_reference(scan, save(tmp_path / "c.dcm", HU[1:]))
    values = np.zeros((24, 24), np.float32)
    values[3, 4] = np.nan
    np.save(tmp_path / "nan.npy", values)
    with pytest.raises(InputError, match=r"nan\.npy: holds NaN"):
        read_reference(scan, tmp_path / "nan.npy", unit="hu")
    filled = read_reference(scan, tmp_path / "nan.npy", unit="hu", fill=0.0)
    assert any(text.startswith("reference: ") for text in filled.warnings)


def test_padding_of_the_reference_is_not_compared(scan, tmp_path):
    stored = HU + 1024
    stored[:6] = 0
    padded = read_reference(scan, save(tmp_path / "p.dcm", stored, PixelPaddingValue=0))
    np.testing.assert_array_equal(padded.valid[0], stored != 0)


def test_references_in_a_directory(tmp_path):
    for name in ("in/a", "in/b", "clean/a", "clean/b"):
        (tmp_path / name).mkdir(parents=True)
    for place, value in (("a", 1), ("b", 2)):
        save(tmp_path / f"in/{place}/1.dcm", HU + 1024)
        save(tmp_path / f"clean/{place}/1.dcm", np.full((24, 24), 1024 + value))
    for place, value in (("a", 1), ("b", 2)):
        found = read_reference(read_grey(tmp_path / f"in/{place}/1.dcm"), tmp_path / "clean")
        assert found.pixels[0, 0, 0] == value
    scan = save(tmp_path / "in/2.dcm", HU + 1024)
    with pytest.raises(InputError, match=r"reference directory .*clean has no 2\.dcm"):
        read_reference(read_grey(scan), tmp_path / "clean")
