"""Which bits of a sample are its value: those that the data show, whatever the header says, and a word about it."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from attn.core.io import Derivation, read_grey, write_grey
from attn.core.io.dicom.codecs import stream_header


def phantom(noise=25.0):
    """HU [64, 64]: air, tissue, bone, fat."""
    y, x = np.mgrid[:64, :64]
    hu = np.full((64, 64), -1000.0)
    hu[np.hypot(y - 31.5, x - 31.5) < 27] = 40
    hu[np.hypot(y - 31.5, x - 22) < 6] = 700
    hu[np.hypot(y - 31.5, x - 42) < 6] = -90
    return hu + np.random.default_rng(0).normal(0, noise, hu.shape)


SIGNED = np.rint(phantom()).astype(np.int16)
PATTERN = SIGNED.view(np.uint16)
PLAIN = np.rint(phantom() + 1024).clip(0, 4095).astype(np.uint16)
SHARP = np.rint(phantom(0) + 1024).astype(np.uint16)
BRIGHT = np.rint(phantom() * 1.6 + 1024).clip(0, 4095).astype(np.uint16)
RANDOM = (np.random.default_rng(1).integers(0, 16, PLAIN.shape) << 12).astype(np.uint16)
LINE = np.zeros_like(PLAIN)
LINE[20:40, 30] = LINE[10, 5:50] = 1
PADDED = PLAIN.copy()
PADDED[:10] = 63536

# raw patterns, what they mean, BitsStored, HighBit, other elements, what the note says (None: no note)
UNSIGNED = {
    "12 bits in 8": (PLAIN, PLAIN, 8, 7, {}, "BitsStored"),
    "12 bits in 10": (PLAIN, PLAIN, 10, 9, {}, "BitsStored"),
    "hard edges in 8": (SHARP, SHARP, 8, 7, {}, "BitsStored"),
    "hard edges in 10": (SHARP, SHARP, 10, 9, {}, "BitsStored"),
    "bone alone above 11": (BRIGHT, BRIGHT, 11, 10, {}, "BitsStored"),
    "as it should be": (PLAIN, PLAIN, 12, 11, {}, None),
    "random bits above": (PLAIN | RANDOM, PLAIN, 12, 11, {}, "bits above"),
    "the same bit above all": (PLAIN | 0x4000, PLAIN, 12, 11, {}, "bits above"),
    "a drawing in bit 12": (PLAIN | (LINE << 12), PLAIN, 12, 11, {}, "bits above"),
    "a drawing in bit 15": (SHARP | (LINE << 15), SHARP, 12, 11, {}, "bits above"),
    "shifted to 15": (PLAIN << 4, PLAIN, 12, 15, {}, "HighBit"),
    "not shifted to 15": (PLAIN, PLAIN, 12, 15, {}, "HighBit"),
    "shifted to 13": (PLAIN << 2, PLAIN, 12, 13, {}, "HighBit"),
    "not shifted to 13": (PLAIN, PLAIN, 12, 13, {}, "HighBit"),
    "shifted, with a drawing above": ((PLAIN << 2) | (LINE << 15), PLAIN, 12, 13, {}, "HighBit"),
    "HighBit beyond": (PLAIN, PLAIN, 12, 20, {}, "HighBit"),
    "HighBit below": (PLAIN, PLAIN, 12, 3, {}, "HighBit"),
    "padding beyond": (PADDED, PADDED, 12, 11, {"PixelPaddingValue": 63536}, None),
}
TWOS = {
    "extended": (PATTERN, SIGNED, 12, 11, {}, None),
    "not extended": (PATTERN & 0xFFF, SIGNED, 12, 11, {}, None),
    "random bits above": ((PATTERN & 0xFFF) | RANDOM, SIGNED, 12, 11, {}, "bits above"),
    "the same bits above all": ((PATTERN & 0xFFF) | 0x5000, SIGNED, 12, 11, {}, "bits above"),
    "a drawing in bit 13": (PATTERN ^ (LINE << 13), SIGNED, 12, 11, {}, "bits above"),
    "12 bits in 10": (PATTERN, SIGNED, 10, 9, {}, "BitsStored"),
    "shifted to 15": (PATTERN << 4, SIGNED, 12, 15, {}, "HighBit"),
    "not shifted, not extended": (PATTERN & 0xFFF, SIGNED, 12, 15, {}, "HighBit"),
    "not shifted": (PATTERN, SIGNED, 12, 13, {}, "HighBit"),
}


def check(path, tmp_path, truth, said):
    image = read_grey(path)
    np.testing.assert_array_equal(image.stored.reshape(truth.shape), truth)
    assert any(said in text for text in image.warnings) if said else image.warnings == ()
    again = tmp_path / "out.dcm"
    write_grey(image, image.pixels, again, Derivation("x", "y", "2.25.1"))
    written = pydicom.dcmread(again)  # another reader than ours, and a header that fits
    np.testing.assert_array_equal(written.pixel_array.reshape(truth.shape), truth)
    assert written.HighBit == written.BitsStored - 1
    assert not {"PixelData", "BitsStored"} - {element.keyword for element in written}
    return image, written


@pytest.mark.parametrize("name", UNSIGNED)
def test_unsigned(name, tmp_path, make_dicom):
    raw, truth, stored, high, elements, said = UNSIGNED[name]
    make_dicom(tmp_path / "a.dcm", raw, BitsStored=stored, HighBit=high, **elements)
    check(tmp_path / "a.dcm", tmp_path, truth, said)


@pytest.mark.parametrize("name", TWOS)
def test_signed(name, tmp_path, make_dicom):
    raw, truth, stored, high, elements, said = TWOS[name]
    make_dicom(tmp_path / "a.dcm", raw.view(np.int16), BitsStored=stored, HighBit=high, **elements)
    check(tmp_path / "a.dcm", tmp_path, truth, said)


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("name", ["12 bits in 10", "a drawing in bit 12", "shifted to 15", "not shifted to 13"])
def test_the_same_for_every_transfer_syntax(syntax, name, tmp_path, make_dicom):
    raw, truth, stored, high, _, said = UNSIGNED[name]
    dataset = make_dicom(tmp_path / "a.dcm", np.stack([raw, raw[::-1]]))
    if syntax == ExplicitVRBigEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = np.stack([raw, raw[::-1]]).astype(">u2").tobytes()
    else:
        dataset.compress(syntax)
    dataset.BitsStored, dataset.HighBit = stored, high
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    check(tmp_path / "a.dcm", tmp_path, np.stack([truth, truth[::-1]]), said)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize(("coded", "kind"), [(16, "i2"), (16, "u2"), (12, "u2")])
def test_signs_in_compressed_streams(syntax, coded, kind, tmp_path, make_dicom):
    raw = SIGNED if kind == "i2" else PATTERN & 0xFFF  # as two's complement of 12 bits in an unsigned stream
    dataset = make_dicom(tmp_path / "a.dcm", raw, BitsStored=coded, HighBit=coded - 1)
    dataset.compress(syntax)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 1
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    check(tmp_path / "a.dcm", tmp_path, SIGNED, None)


def test_a_signed_stream_of_unsigned_pixels_is_told(tmp_path, make_dicom):
    dataset = make_dicom(tmp_path / "a.dcm", SIGNED)
    dataset.compress(JPEG2000Lossless)
    dataset.PixelRepresentation = 0
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    check(tmp_path / "a.dcm", tmp_path, PATTERN, "PixelRepresentation")


def overlay(dataset, group, bit, rows=64):
    for element, vr, value in (
        (0x0010, "US", rows), (0x0011, "US", 64), (0x0040, "CS", "R"), (0x0050, "SS", [1, 1]),
        (0x0100, "US", 16), (0x0102, "US", bit), (0x1500, "LO", "A region"),
    ):  # fmt: skip
        dataset.add_new((group, element), vr, value)


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("used", [8, 12])
def test_overlays_in_unused_bits_are_masked_and_kept(coded, used, tmp_path, make_dicom):
    values = np.stack([PLAIN, PLAIN[::-1]]) >> (12 - used)
    first, second = np.stack([LINE, LINE * 0]), np.stack([LINE.T, LINE])
    raw = values | (first << used) | (second << 15)
    dataset = make_dicom(tmp_path / "a.dcm", raw, BitsStored=16)
    if coded:
        dataset.compress(JPEG2000Lossless)
    dataset.BitsStored, dataset.HighBit = used, used - 1
    overlay(dataset, 0x6000, used)
    overlay(dataset, 0x6002, 15)
    overlay(dataset, 0x6004, 3)  # in the values: cannot be
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    image, written = check(tmp_path / "a.dcm", tmp_path, values, "overlay 6000")
    np.testing.assert_array_equal(written.overlay_array(0x6000), first)
    np.testing.assert_array_equal(written.overlay_array(0x6002), second)
    assert (written[0x6000, 0x0040].value, written[0x6000, 0x1500].value) == ("R", "A region")
    assert (written[0x6000, 0x0100].value, written[0x6000, 0x0102].value) == (1, 0)
    assert len(written[0x6000, 0x3000].value) == 2 * 64 * 64 // 8  # of two frames, and nothing after them
    assert (0x6004, 0x0010) not in written
    assert any("6004" in text and "left out" in text for text in image.warnings)


@pytest.mark.parametrize("values", [PLAIN, SHARP])
def test_an_overlay_inside_of_what_the_header_calls_the_value(values, tmp_path, make_dicom):
    dataset = make_dicom(tmp_path / "a.dcm", values | (LINE << 12))  # BitsStored 16
    overlay(dataset, 0x6000, 12)
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    _, written = check(tmp_path / "a.dcm", tmp_path, values, "BitsStored")
    np.testing.assert_array_equal(written.overlay_array(0x6000), LINE)


@pytest.mark.parametrize("data", [b"", None])
def test_pixel_data_without_pixels(data, tmp_path, make_dicom):
    from attn.core.errors import InputError

    dataset = make_dicom(tmp_path / "a.dcm", PLAIN)
    dataset["PixelData"]._value = data
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    with pytest.raises(InputError, match="PixelData without pixels"):
        read_grey(tmp_path / "a.dcm")


def test_a_stream_with_more_bits_than_are_allocated(tmp_path, make_dicom):
    dataset = make_dicom(tmp_path / "a.dcm", PLAIN)
    dataset.compress(JPEG2000Lossless)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    check(tmp_path / "a.dcm", tmp_path, PLAIN, "BitsAllocated")


@pytest.mark.parametrize(
    ("elements", "says"),
    [
        ({"BitsAllocated": 12, "BitsStored": 12}, "BitsAllocated 12"),
        ({"PixelRepresentation": 7}, "PixelRepresentation"),
    ],
)
def test_what_cannot_be_is_named(elements, says, tmp_path, make_dicom):
    from attn.core.errors import InputError

    make_dicom(tmp_path / "a.dcm", PLAIN, **elements)
    with pytest.raises(InputError, match=says):
        read_grey(tmp_path / "a.dcm")


def test_frames_that_the_header_does_not_count_are_told(tmp_path, make_dicom):
    make_dicom(tmp_path / "a.dcm", np.stack([PLAIN, PLAIN]), NumberOfFrames=1)
    image = read_grey(tmp_path / "a.dcm")
    assert image.pixels.shape == (1, 64, 64)
    assert "NumberOfFrames says 1, the pixel data hold 2" in image.warnings[0]
    dataset = make_dicom(tmp_path / "a.dcm", np.stack([PLAIN, PLAIN]), NumberOfFrames=0)
    assert any("NumberOfFrames is 0" in text for text in read_grey(tmp_path / "a.dcm").warnings)
    dataset.NumberOfFrames = 2
    dataset.compress(RLELossless)
    dataset.NumberOfFrames = 3
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    from attn.core.errors import InputError

    with pytest.raises(InputError, match="NumberOfFrames says 3 frames, found 2"):
        read_grey(tmp_path / "a.dcm")


def test_what_streams_say_of_themselves():
    siz = b"\xff\x4f\xff\x51\0\x29\0\0" + b"".join(n.to_bytes(4, "big") for n in (70, 90, 6, 26)) + bytes(16) + b"\0\1"
    j2k = stream_header(siz + b"\x8b\1\1")
    assert (j2k.size, j2k.precision, j2k.signed) == ((64, 64), 12, True)
    jpeg = stream_header(b"\xff\xd8\xff\xc3\0\x0b\x0c\0\x40\0\x30\1\1\x11\0")
    assert (jpeg.size, jpeg.precision, jpeg.signed) == ((64, 48), 12, False)


def test_a_file_that_ends_after_one_of_two_frames(tmp_path, make_dicom):
    from attn.core.errors import InputError

    make_dicom(tmp_path / "a.dcm", PLAIN, NumberOfFrames=2)
    with pytest.raises(InputError, match=r"NumberOfFrames says 2 frames \(16384 bytes\), found 1"):
        read_grey(tmp_path / "a.dcm")


def test_padding_below_the_stored_bits_that_is_written_without_its_sign(tmp_path, make_dicom):
    values = np.clip(PLAIN.astype(np.int32) - 1500, -2048, 2047).astype(np.int16)
    values[:5] = -3000
    dataset = make_dicom(tmp_path / "a.dcm", values, BitsStored=12, HighBit=11)
    dataset.add_new("PixelPaddingValue", "US", 2**16 - 3000)
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    image = read_grey(tmp_path / "a.dcm")
    assert np.array_equal(image.pixels[0], values)
    assert not image.valid[0, :5].any()
    assert image.valid[0, 5:].all()
    assert image.warnings == ()
