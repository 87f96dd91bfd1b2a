"""Kinds of photo beyond PNG, JPEG and TIFF: their colours, what is told of them, and headers that promise too much."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, features

from attn.core.errors import InputError
from attn.core.io.photo import decode as photo_decode
from attn.core.io.photo.header import declared
from attn.core.io.photo.read import PHOTO_SUFFIXES, read_photo

YY, XX = np.mgrid[:60, :80]
SMOOTH = np.stack([YY * 4, XX * 3, 250 - 2 * YY], -1).astype(np.uint8)


def saved(path, array=SMOOTH, **options):
    Image.fromarray(array).save(path, **options)
    return path


def close(path, *, within=0.01, **options):
    photo = read_photo(path, **options)
    assert photo.pixels.shape == (3, 60, 80)
    assert abs(np.moveaxis(photo.pixels, 0, -1) - SMOOTH / 255).mean() < within
    assert path.suffix in PHOTO_SUFFIXES or path.suffix == ".dcm"
    return photo


def plugin(name):
    module = pytest.importorskip(name)
    if hasattr(module, "register_heif_opener"):
        module.register_heif_opener()


def test_jfif_webp_jpeg2000_avif(tmp_path):
    for name, options in (("a.jfif", {"format": "JPEG"}), ("a.webp", {}), ("a.jp2", {}), ("a.j2k", {}), ("a.avif", {})):
        if name != "a.avif" or features.check("avif"):
            assert close(saved(tmp_path / name, **options)).warnings == ()


@pytest.mark.parametrize(("module", "name"), [("pillow_heif", "a.heic"), ("pillow_jxl", "a.jxl")])
def test_heic_and_jpeg_xl(tmp_path, module, name):
    plugin(module)
    assert close(saved(tmp_path / name, quality=95)).warnings == ()


def test_a_reader_that_is_missing_is_named_with_how_to_get_it(tmp_path, monkeypatch):
    plugin("pillow_heif")
    path = saved(tmp_path / "a.heic")
    monkeypatch.setattr(photo_decode, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"is HEIC, for which no reader is installed. pip install 'attn\[photos\]'"):
        read_photo(path)


def test_heic_that_is_turned_and_deep(tmp_path):
    plugin("pillow_heif")
    import pillow_heif

    exif = Image.Exif()
    exif[274] = 6
    photo = read_photo(saved(tmp_path / "o.heic", quality=95, exif=exif.tobytes()))
    assert (photo.size, photo.orientation) == ((80, 60), 6)
    close(tmp_path / "o.heic", orientation=1)
    deep = pillow_heif.from_bytes("RGB;16", (80, 60), (SMOOTH.astype(np.uint16) * 257).tobytes())
    deep.save(tmp_path / "deep.heic", quality=95)
    assert "10 bits per channel were cut to 8" in close(tmp_path / "deep.heic").warnings


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.png", "a.mpo", "a.avif"])
def test_the_first_of_several_pictures_is_read_and_said(tmp_path, name):
    if name == "a.avif" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    later = Image.fromarray(np.ascontiguousarray(SMOOTH[::-1]))
    saved(tmp_path / name, save_all=True, append_images=[later], **({"quality": 95} if name != "a.gif" else {}))
    photo = read_photo(tmp_path / name)
    assert photo.warnings == ("holds several pictures: only the first is read",)
    assert abs(np.moveaxis(photo.pixels, 0, -1) - SMOOTH / 255).mean() < 0.02


@pytest.mark.parametrize("form", ["RGB", "YBR_FULL", "PALETTE COLOR", "MONOCHROME2", "MONOCHROME1", "planar", "JPEG"])
def test_dicom_photos_keep_their_colours(tmp_path, form):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels.processing import convert_color_space
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, OphthalmicPhotography8BitImageStorage

    wanted, colours = SMOOTH, 3 if form not in ("PALETTE COLOR", "MONOCHROME2", "MONOCHROME1") else 1
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if form == "JPEG" else ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = OphthalmicPhotography8BitImageStorage, "1.2.3", "OP"
    dataset.SamplesPerPixel, dataset.PixelRepresentation = colours, 0
    dataset.Rows, dataset.Columns = 60, 80
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PhotometricInterpretation = {"planar": "RGB", "JPEG": "YBR_FULL_422"}.get(form, form)
    if colours == 3:
        dataset.PlanarConfiguration = int(form == "planar")
    pixels = SMOOTH
    if form == "YBR_FULL":
        pixels = convert_color_space(SMOOTH, "RGB", "YBR_FULL")
    elif form == "planar":
        pixels = np.ascontiguousarray(np.moveaxis(SMOOTH, -1, 0))
    elif colours == 1:
        pixels = SMOOTH[..., 1]
        wanted = np.repeat(pixels[..., None], 3, -1)
        if form == "MONOCHROME1":
            pixels = 255 - pixels
    if form == "PALETTE COLOR":
        for number, colour in enumerate(("Red", "Green", "Blue")):
            setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            table = ((np.arange(256) * (257, 128, 64)[number]).astype("<u2")).tobytes()
            setattr(dataset, f"{colour}PaletteColorLookupTableData", table)
        wanted = np.stack([pixels, pixels * (128 / 257), pixels * (64 / 257)], -1)
    if form == "JPEG":
        buffer = io.BytesIO()
        Image.fromarray(SMOOTH).save(buffer, "JPEG", quality=95)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].VR = "OB"
    else:
        dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    photo = read_photo(tmp_path / "a.dcm")
    assert abs(np.moveaxis(photo.pixels, 0, -1) - wanted / 255).max() < (0.06 if form == "JPEG" else 0.01)


# --- headers that promise too much ----------------------------------------------------------------------------------


def patched(path, at, new, **options):
    saved(path, **options)
    data = bytearray(path.read_bytes())
    place = at(data) if callable(at) else at
    data[place : place + len(new)] = new
    path.write_bytes(data)
    return path


HUGE = {
    "a.webp": (
        24,
        (16382).to_bytes(3, "little") * 2,
        {"save_all": True, "append_images": [Image.new("RGB", (80, 60))]},
    ),
    "a.j2k": (8, struct.pack(">II", 60000, 60000), {}),
    "a.avif": (lambda data: data.find(b"ispe") + 8, struct.pack(">II", 16000, 16000), {}),
    "a.heic": (lambda data: data.find(b"ispe") + 8, struct.pack(">II", 16000, 16000), {}),
    "a.bmp": (18, struct.pack("<ii", 30000, 30000), {}),
    "a.png": (16, struct.pack(">II", 30000, 30000), {}),
    "a.jxl": (2, b"\xf4" + b"\xff" * 15, {}),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_size_beyond_the_budget_is_refused_before_decoding(tmp_path, monkeypatch, set_budget, name):
    for module, suffix in (("pillow_heif", ".heic"), ("pillow_jxl", ".jxl")):
        if name.endswith(suffix):
            plugin(module)
    if name == "a.avif" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    at, new, options = HUGE[name]
    path = patched(tmp_path / name, at, new, **options)
    set_budget(2**27)
    monkeypatch.setattr(Image.core, "new", None)  # nothing may be allocated
    with pytest.raises(InputError, match=r"claims \d+ x \d+ pixels, which take .* more than the budget"):
        read_photo(path, max_side=64)


@pytest.mark.parametrize("coding", ["zlib", "lzma"])
def test_a_strip_that_unpacks_to_more_than_its_place(tmp_path, coding):
    if coding == "lzma":
        import lzma

        packed = lzma.compress(bytes(2**22))
    else:
        packed = zlib.compress(bytes(2**22))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, SMOOTH[:, :, 0], rowsperstrip=60, metadata=None)
    data = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
        tags = tiff.pages.first.tags
        places = {number: (tags[number].valueoffset, tags[number].dtype) for number in (259, 273, 279)}
    for number, value in ((259, 8 if coding == "zlib" else 34925), (273, len(data)), (279, len(packed))):
        at, kind = places[number]
        size = {3: 2, 4: 4, 16: 8}[int(kind)]
        data[at : at + size] = value.to_bytes(size, "little")
    (tmp_path / "a.tif").write_bytes(bytes(data) + packed)
    with pytest.raises(InputError, match="unpacks to more than its 4800 bytes"):
        read_photo(tmp_path / "a.tif")
    honest = tmp_path / "b.tif"
    tifffile.imwrite(honest, SMOOTH, compression="zlib", tile=(16, 32), photometric="rgb")
    assert np.array_equal(np.rint(read_photo(honest).pixels * 255), np.moveaxis(SMOOTH, -1, 0))


def test_the_budget_decides_about_large_photos(tmp_path, set_budget):
    from attn.core.io.bands import write_png

    rows = (np.full((100, 4000, 3), n, np.uint8) for n in range(30))
    write_png(tmp_path / "a.png", (3000, 4000), rows, channels=3)
    for budget, message in ((2**30, None), (2**26, "which take")):
        set_budget(budget)
        if message is None:
            assert read_photo(tmp_path / "a.png", max_side=400).size == (3000, 4000)
        else:
            with pytest.raises(InputError, match=message):
                read_photo(tmp_path / "a.png", max_side=400)


@pytest.mark.parametrize("size", [(60, 80), (64, 64), (256, 512), (300, 500), (37, 1000), (270, 480), (8, 8)], ids=str)
def test_headers_are_understood(tmp_path, size):
    plugin("pillow_jxl")
    plugin("pillow_heif")
    pixels = np.zeros((*size, 3), np.uint8)
    kinds = {"a.jxl": "JPEG XL", "a.webp": "WebP", "a.jp2": "JPEG 2000", "a.heic": "HEIC"}
    if features.check("avif"):
        kinds["a.avif"] = "AVIF"
    for name, kind in kinds.items():
        path = saved(tmp_path / name, pixels)
        assert photo_decode.kind_of(path) == kind
        found = declared(path, kind)
        assert found.size is not None
        assert np.abs(np.subtract(found.size, size)).max() <= (63 if kind == "HEIC" else 0)  # HEIC codes whole blocks
        assert found.bits in (8, None)
    saved(tmp_path / "b.jxl", pixels, use_container=True)
    assert declared(tmp_path / "b.jxl", "JPEG XL").size == size
    saved(tmp_path / "b.webp", pixels, lossless=True)
    assert declared(tmp_path / "b.webp", "WebP").size == size


@pytest.mark.parametrize(("flags", "bits"), [(0x00, 8), (0x40, 10), (0x60, 12)])
def test_the_depth_of_an_avif(tmp_path, flags, bits):
    box = b"\0\0\0\x14ftypavif\0\0\0\0avif" + b"\0\0\0\x0cav1C\x81\x00" + bytes([flags]) + b"\0"
    (tmp_path / "a.avif").write_bytes(box + bytes(64))
    assert photo_decode.kind_of(tmp_path / "a.avif") == "AVIF"
    assert declared(tmp_path / "a.avif", "AVIF").bits == bits


def test_doctor_lists_the_optional_readers():
    from attn.cli.doctor import optional_parts

    found = {row["part"]: row["status"] for row in optional_parts()}
    assert {"HEIC photos", "JPEG XL photos", "AVIF photos", "JPEG 2000 photos", "WebP photos"} <= set(found)
    assert (found["AVIF photos"] == "found") == features.check("avif")
