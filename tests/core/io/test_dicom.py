import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from attn.core.errors import InputError
from attn.core.io import Derivation, read_grey, write_grey
from attn.core.io.dicom import derived_uid

DERIVATION = Derivation("attn 0.1 filter2noise, seed 77", "denoised", "2.25.77")


def rewritten(image, pixels, path, derivation=DERIVATION):
    write_grey(image, pixels, path, derivation)
    return read_grey(path)


def test_every_good_file_round_trips(good_dicom, dicom_dir, tmp_path):
    image = read_grey(dicom_dir / good_dicom)
    assert image.pixels.dtype == np.float32
    assert image.pixels.ndim == 3
    dataset = pydicom.dcmread(dicom_dir / good_dicom)
    truth = np.asarray(dataset.pixel_array).reshape(image.pixels.shape)
    np.testing.assert_array_equal(image.stored, truth)
    if image.unit == "HU" and "RescaleSlope" in dataset:
        hu = (truth * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)).astype(np.float32)
        np.testing.assert_array_equal(image.pixels, hu)
    again = rewritten(image, image.pixels, tmp_path / "same.dcm")
    np.testing.assert_array_equal(again.pixels, image.pixels)
    np.testing.assert_array_equal(again.stored, image.stored)
    assert again.unit == image.unit
    reread = pydicom.dcmread(tmp_path / "same.dcm")  # another reader than ours
    np.testing.assert_array_equal(np.asarray(reread.pixel_array).reshape(truth.shape), truth)
    assert reread.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_every_good_file_takes_changed_pixels(good_dicom, dicom_dir, tmp_path):
    image = read_grey(dicom_dir / good_dicom)
    rng = np.random.default_rng(1)
    pixels = image.pixels + rng.normal(0, 20, image.pixels.shape).astype(np.float32)
    again = rewritten(image, pixels, tmp_path / "new.dcm")
    valid = np.ones(pixels.shape, bool) if image.valid is None else image.valid
    np.testing.assert_array_equal(again.stored[~valid], image.stored[~valid])  # padding untouched
    source = image.source
    slope = 1.0 if source.slope is None else source.slope[:, None, None]
    low = image.pixels.min() if image.stored.dtype.kind == "u" else -np.inf  # unsigned values clip at stored 0
    bits = int(source.dataset.BitsStored)
    top = (1 << bits) - 1 if image.stored.dtype.kind == "u" else (1 << (bits - 1)) - 1
    inside = valid & (pixels > low) & (again.stored < top)
    assert np.abs(again.pixels - pixels)[inside].max() <= np.max(0.5 * slope) + 1e-3  # half a storage step
    assert (again.stored != image.stored).any()


def test_every_broken_file_gives_one_clear_line(broken_dicom, dicom_dir):
    name, expected = broken_dicom
    with pytest.raises(InputError, match=expected) as caught:
        read_grey(dicom_dir / "broken" / f"{name}.dcm")
    message = str(caught.value)
    assert "\n" not in message
    assert f"{name}.dcm" in message
    assert caught.value.fix  # what to do about it


def test_colour_is_refused_unless_luma_is_asked_for(colour_dicom, dicom_dir, tmp_path):
    with pytest.raises(InputError, match="--luma"):
        read_grey(dicom_dir / colour_dicom)
    image = read_grey(dicom_dir / colour_dicom, luma=True)
    again = rewritten(image, image.pixels, tmp_path / "grey.dcm")
    np.testing.assert_array_equal(again.stored, image.stored)
    dataset = pydicom.dcmread(tmp_path / "grey.dcm")
    assert (dataset.SamplesPerPixel, dataset.PhotometricInterpretation) == (1, "MONOCHROME2")
    assert not [element for element in dataset if "Palette" in element.keyword]


def test_luma_of_rgb_is_bt601(dicom_dir):
    path = dicom_dir / "other/secondary_capture_rgb_odd.dcm"
    rgb = pydicom.dcmread(path).pixel_array.astype(float)
    expected = np.rint(0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2])
    np.testing.assert_array_equal(read_grey(path, luma=True).pixels[0], expected)


def test_lossless_codings_agree_to_the_bit(dicom_dir):
    images = [read_grey(dicom_dir / f"compressed/toshiba_xpressgx_{c}.dcm") for c in ("j2k", "jpegll", "jpegls", "rle")]
    for image in images:
        np.testing.assert_array_equal(image.stored, images[0].stored)
        assert (image.stored.min(), image.stored.max()) == (-2048, 1433)


def test_derived_instance_says_so(dicom_dir, tmp_path):
    path = dicom_dir / "ct/ge_lightspeed_vct_abdomen.dcm"
    image, old = read_grey(path), pydicom.dcmread(path)
    write_grey(image, image.pixels + 3, tmp_path / "new.dcm", Derivation("µ" * 2000, "x" * 100, "2.25.5"))
    new = pydicom.dcmread(tmp_path / "new.dcm")
    assert new.SOPInstanceUID == new.file_meta.MediaStorageSOPInstanceUID != old.SOPInstanceUID
    assert new.SOPInstanceUID.is_valid
    assert new.SeriesInstanceUID == "2.25.5"
    assert new.StudyInstanceUID == old.StudyInstanceUID
    assert new.FrameOfReferenceUID == old.FrameOfReferenceUID
    assert list(new.ImageType) == ["DERIVED", "SECONDARY", *list(old.ImageType)[2:]]
    assert len(new.DerivationDescription) == 1024
    assert len(new.SeriesDescription) <= 64
    assert "InstanceCreationDate" in old
    assert "InstanceCreationDate" not in new  # no clock in our files, and the old date is another instance's
    assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID
    assert new.SourceImageSequence[0].ReferencedSOPClassUID == old.SOPClassUID
    assert (new.RescaleSlope, new.RescaleIntercept, new.BitsStored) == (
        old.RescaleSlope, old.RescaleIntercept, old.BitsStored,
    )  # fmt: skip
    assert new.PixelPaddingValue == old.PixelPaddingValue
    stored = new.pixel_array
    for keyword, value in (("SmallestImagePixelValue", stored.min()), ("LargestImagePixelValue", stored.max())):
        assert keyword not in old or new[keyword].value == value


def test_same_source_pixels_and_description_give_the_same_bytes(dicom_dir, tmp_path):
    for name in ("ct/ge_rhapsode_128_small.dcm", "enhanced/enhanced_ct_2frames.dcm"):
        image = read_grey(dicom_dir / name)
        for out in ("a.dcm", "b.dcm"):
            write_grey(image, image.pixels + 1, tmp_path / out, DERIVATION)
        assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
        write_grey(image, image.pixels + 2, tmp_path / "c.dcm", DERIVATION)
        uids = [pydicom.dcmread(tmp_path / out).SOPInstanceUID for out in ("a.dcm", "c.dcm")]
        assert uids[0] != uids[1]  # other pixels are another instance


def test_lossy_source_stays_marked_as_lossy(dicom_dir, tmp_path):
    image = read_grey(dicom_dir / "ct/siemens_sensation64_heart_b25f_j2k_lossy.dcm")
    write_grey(image, image.pixels, tmp_path / "x.dcm", DERIVATION)
    assert pydicom.dcmread(tmp_path / "x.dcm").LossyImageCompression == "01"


def test_private_words_of_a_big_endian_file_are_turned_around(tmp_path, make_dicom):
    from pydicom import dcmwrite
    from pydicom.uid import ExplicitVRBigEndian

    dataset = make_dicom(tmp_path / "a.dcm", np.arange(16, dtype=np.int16).reshape(4, 4))
    dataset.PixelData = np.arange(16, dtype=">i2").tobytes()
    dataset.add_new(0x00111010, "OW", b"\x01\x02\x03\x04")
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dcmwrite(tmp_path / "be.dcm", dataset, enforce_file_format=True)
    image = read_grey(tmp_path / "be.dcm")
    np.testing.assert_array_equal(image.stored.ravel(), np.arange(16))
    write_grey(image, image.pixels, tmp_path / "le.dcm")
    assert pydicom.dcmread(tmp_path / "le.dcm")[0x00111010].value == b"\x02\x01\x04\x03"


@pytest.mark.parametrize("name", ["ct/toshiba_aquilion_one_chest_1mm.dcm", "compressed/toshiba_xpressgx_j2k_lossy.dcm"])
def test_unmarked_outside_of_the_scan_circle_is_recognised(name, dicom_dir):
    image = read_grey(dicom_dir / name)
    assert image.valid is not None
    outside = ~image.valid[0]
    assert outside[[0, 0, -1, -1], [0, -1, 0, -1]].all()
    assert 0.15 < outside.mean() < 0.26  # a circle leaves out 21 % of its square
    assert image.pixels[0][~outside].min() > -1600
    assert any("field of view" in text for text in image.warnings)


def test_marked_padding_is_not_valid(dicom_dir):
    image = read_grey(dicom_dir / "series_ge_head_tilt/11.dcm")
    np.testing.assert_array_equal(image.valid, image.stored != -1500)


def test_padding_range_and_wrong_signedness(tmp_path, make_dicom):
    stored = np.array([[-2000, -1990, -1980, 0], [5, 6, 7, 8]], np.int16)
    dataset = make_dicom(tmp_path / "a.dcm", stored, Modality="MR")  # no recognition of unmarked padding
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)  # as many scanners write it
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    np.testing.assert_array_equal(~read_grey(tmp_path / "a.dcm").valid[0], [[True] + [False] * 3, [False] * 4])
    dataset.add_new("PixelPaddingRangeLimit", "SS", -1990)
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    image = read_grey(tmp_path / "a.dcm")
    np.testing.assert_array_equal(~image.valid[0], [[True, True, False, False], [False] * 4])


def test_values_are_rounded_half_to_even_and_clipped_to_bits_stored(tmp_path, make_dicom):
    stored = np.array([[0, 1, 2, 3], [4095, 4094, 0, 9]], np.uint16)
    make_dicom(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11, RescaleSlope=2, RescaleIntercept=-100)
    image = read_grey(tmp_path / "a.dcm")
    np.testing.assert_array_equal(image.pixels[0], stored * 2.0 - 100)
    pixels = image.pixels + np.array([[1, 1, 3, 0], [10, 1, -7, 0]], np.float32)
    write_grey(image, pixels, tmp_path / "b.dcm")
    expected = [[0, 2, 4, 3], [4095, 4094, 0, 9]]  # 0.5 -> 0, 1.5 -> 2, 3.5 -> 4; 4100 and -3.5 clip; 4094.5 -> 4094
    np.testing.assert_array_equal(pydicom.dcmread(tmp_path / "b.dcm").pixel_array, expected)


def test_sample_that_does_not_begin_at_bit_zero(tmp_path, make_dicom):
    values = np.array([[-2048, -1, 0, 2047]], np.int16)
    raw = (values.astype(np.uint16) << 4) | 0x5  # the low four bits hold something else
    make_dicom(tmp_path / "a.dcm", raw.view(np.int16), BitsStored=12, HighBit=15, PixelRepresentation=1)
    image = read_grey(tmp_path / "a.dcm")
    np.testing.assert_array_equal(image.stored[0], values)
    write_grey(image, image.pixels, tmp_path / "b.dcm")
    again = pydicom.dcmread(tmp_path / "b.dcm")
    np.testing.assert_array_equal(again.pixel_array, values)
    assert again.HighBit == 11


def test_rescale_that_differs_per_frame(tmp_path, make_dicom):
    from pydicom.dataset import Dataset

    stored = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    dataset = make_dicom(tmp_path / "a.dcm", stored, RescaleSlope=None, RescaleIntercept=None)
    groups = []
    for slope, intercept in ((1, -1024), (0.5, 10)):
        transform, item = Dataset(), Dataset()
        transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = slope, intercept, "HU"
        item.PixelValueTransformationSequence = [transform]
        groups.append(item)
    dataset.PerFrameFunctionalGroupsSequence = groups
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    image = read_grey(tmp_path / "a.dcm")
    assert image.unit == "HU"
    np.testing.assert_array_equal(image.pixels[0], stored[0] - 1024.0)
    np.testing.assert_array_equal(image.pixels[1], stored[1] * 0.5 + 10)
    write_grey(image, image.pixels + 2, tmp_path / "b.dcm", DERIVATION)
    np.testing.assert_array_equal(read_grey(tmp_path / "b.dcm").stored, stored + np.array([2, 4])[:, None, None])


def test_monochrome1_concerns_the_display_only(tmp_path, make_dicom):
    stored = np.arange(12, dtype=np.int16).reshape(3, 4)
    make_dicom(tmp_path / "a.dcm", stored, PhotometricInterpretation="MONOCHROME1")
    image = read_grey(tmp_path / "a.dcm")
    np.testing.assert_array_equal(image.pixels[0], stored)
    write_grey(image, image.pixels, tmp_path / "b.dcm", DERIVATION)
    assert pydicom.dcmread(tmp_path / "b.dcm").PhotometricInterpretation == "MONOCHROME1"


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"Rows": 0}, "no pixels"),
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000"),
        ({"NumberOfFrames": 2147483647}, "2147483647"),
        ({"Rows": 9}, "expected 144 bytes, found 96"),
        ({"RescaleSlope": 0}, "RescaleSlope"),
        ({"BitsStored": 40}, "BitsStored 40"),
        ({"SamplesPerPixel": 2}, "2 samples"),
        ({"BitsAllocated": 1}, "segmentation"),
    ],
    ids=str,
)
def test_absurd_headers_are_refused(elements, message, tmp_path, make_dicom):
    make_dicom(tmp_path / "a.dcm", np.zeros((6, 8), np.int16), **elements)
    with pytest.raises(InputError, match=message):
        read_grey(tmp_path / "a.dcm")


@pytest.mark.parametrize("coding", ["jpegls", "j2k", "jpegll"])
def test_stream_of_another_size_than_the_header_is_refused(coding, dicom_dir, tmp_path):
    data = bytearray((dicom_dir / f"compressed/toshiba_xpressgx_{coding}.dcm").read_bytes())
    start = data.index(b"\x28\x00\x10\x00US\x02\x00") + 8
    data[start : start + 2] = (400).to_bytes(2, "little")
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(InputError, match="frame 1 is 512 x 512, the header says 400 x 512"):
        read_grey(tmp_path / "a.dcm")


def test_without_preamble(tmp_path, make_dicom, dicom_dir):
    whole = (dicom_dir / "ct/ge_rhapsode_128_small.dcm").read_bytes()
    (tmp_path / "bare").write_bytes(whole[132:])
    np.testing.assert_array_equal(
        read_grey(tmp_path / "bare").pixels, read_grey(dicom_dir / "ct/ge_rhapsode_128_small.dcm").pixels
    )


def test_an_element_that_cannot_be_understood_is_left_out_with_a_note(tmp_path, make_dicom):
    make_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.int16))
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data.replace(b"\x20\x00\x0d\x00UI", b"\x20\x00\x0d\x00UK"))  # StudyInstanceUID
    image = read_grey(tmp_path / "a.dcm")
    assert any("(0020,000D) is damaged" in text for text in image.warnings)
    write_grey(image, image.pixels, tmp_path / "b.dcm", DERIVATION)
    assert pydicom.dcmread(tmp_path / "b.dcm").StudyInstanceUID  # required, so a new one stands in


def test_a_value_that_cannot_be_encoded_is_left_out(tmp_path, make_dicom):
    make_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.int16))
    image = read_grey(tmp_path / "a.dcm")
    element = pydicom.DataElement(0x00200013, "US", 1)
    element._value = "no number at all"
    image.source.dataset.add(element)
    write_grey(image, image.pixels, tmp_path / "b.dcm", DERIVATION)
    again = pydicom.dcmread(tmp_path / "b.dcm")
    assert "InstanceNumber" not in again
    assert again.PatientName == "Test"


def test_derived_uid_is_a_function_of_its_parts():
    assert derived_uid("a", "b") == derived_uid("a", "b") != derived_uid("ab")
    assert pydicom.uid.UID(derived_uid("a", "b")).is_valid


def test_read_images_travel_to_workers(dicom_dir):
    import pickle

    image = read_grey(dicom_dir / "ct/ge_rhapsode_128_small.dcm")
    again = pickle.loads(pickle.dumps(image))
    np.testing.assert_array_equal(again.pixels, image.pixels)
    assert "PixelData" not in again.source.dataset


def test_nan_is_never_written(dicom_dir, tmp_path):
    image = read_grey(dicom_dir / "ct/ge_rhapsode_128_small.dcm")
    pixels = image.pixels.copy()
    pixels[0, 3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        write_grey(image, pixels, tmp_path / "x.dcm", DERIVATION)
    assert not list(tmp_path.iterdir())
