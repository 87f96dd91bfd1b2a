"""Damaged image files by the hundred, for the tests of the readers and of the command line.

Use: ``for name, data in mutations(corpus(data_dir), count=500, seed=0): ...``. The same seed gives the same bytes.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SIZES = (b"\xff\xff", b"\x00\x00", b"\x60\xea", b"\xea\x60", b"\xff\x7f", b"\x01\x00", b"\x00\x80")
LONG_SIZES = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x60\xea\x00\x00", b"\x00\x00\xea\x60", b"\x00\x00\x00\x80")
DICOM_FIELDS = {  # elements of two bytes whose damage hurts most: rows, columns, samples, bits, sign
    b"\x28\x00\x10\x00US\x02\x00": 8,
    b"\x28\x00\x11\x00US\x02\x00": 8,
    b"\x28\x00\x02\x00US\x02\x00": 8,
    b"\x28\x00\x00\x01US\x02\x00": 8,
    b"\x28\x00\x01\x01US\x02\x00": 8,
    b"\x28\x00\x02\x01US\x02\x00": 8,
    b"\x28\x00\x03\x01US\x02\x00": 8,
}
NUMBERS = (b"NaN", b"inf", b"-1e99", b"0", b"1A", b"", b"99999999", b"1\\2\\3")


def corpus(data_dir: Path | None) -> dict[str, bytes]:
    """Small whole files of every kind, made here; with ``data_dir`` also real DICOM files of many transfer syntaxes."""
    from tifffile import imwrite

    rng = np.random.default_rng(0)
    image = rng.integers(0, 4096, (24, 20)).astype(np.uint16)
    files = {"grey16.png": _saved(image, "PNG"), "grey8.png": _saved(image.astype(np.uint8), "PNG")}
    files["colour.png"] = _saved(rng.integers(0, 255, (9, 7, 3)).astype(np.uint8), "PNG")
    files["lzw.tif"] = _saved(image, "TIFF", compression="tiff_lzw")
    for name, array, options in (
        ("stack.tif", np.stack([image] * 3), {}),
        ("float.tif", image.astype(np.float32), {"compression": "zlib"}),
        ("big.tif", image, {"byteorder": ">", "bigtiff": True}),
    ):
        buffer = io.BytesIO()
        imwrite(buffer, array, photometric="minisblack", **options)
        files[name] = buffer.getvalue()
    for name, array in (("int.npy", image), ("float.npy", image.astype(np.float32)), ("stack.npy", image[None])):
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[name] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=image, other=image[:3])
    files["two.npz"] = buffer.getvalue()
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 20, 24, 1, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 512, 16)  # uint16
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[344:348] = b"n+1\0"
    files["volume.nii"] = bytes(header) + image.tobytes()
    if data_dir is not None:
        names = ["ct/ge_rhapsode_128_small.dcm", "other/mr_small.dcm", "other/mr_small_bigendian.dcm"]
        names += ["other/secondary_capture_rgb_odd.dcm", "enhanced/enhanced_mr_10frames_jpegls.dcm"]
        names += ["enhanced/enhanced_ct_2frames_fragmented_no_bot.dcm", "compressed/ge_hispeed_cti_deflated.dcm"]
        names += [f"compressed/toshiba_xpressgx_{word}.dcm" for word in ("j2k_lossy", "jpegls_near", "jpegll", "rle")]
        names += ["compressed/ge_hispeed_cti_jpeg12_lossy.dcm", "other/no_pixel_spacing.dcm"]
        files |= {Path(name).name: (data_dir / "dicom" / name).read_bytes() for name in names}
    return files


def _saved(array: np.ndarray, kind: str, **options: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def mutations(files: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield ``count`` damaged files as (name with the source's suffix, bytes), the kinds taking turns."""
    rng = random.Random(seed)
    names = sorted(files)
    for number in range(count):
        name = names[number % len(names)]
        data, how = _mutated(bytearray(files[name]), name, rng)
        yield f"{number:04d}-{how}-{name}", bytes(data)


def _mutated(data: bytearray, name: str, rng: random.Random) -> tuple[bytearray, str]:
    ways = ["bits", "head", "cut", "zeros", "twice", "splice", "size", "long"]
    if name.endswith(".dcm"):
        ways += ["field", "field", "number", "number"]
    if name.endswith((".png",)):
        ways += ["ihdr", "ihdr"]
    if name.startswith("float"):
        ways += ["nan"]
    how = rng.choice(ways)
    if how in ("bits", "head"):
        reach = min(len(data), 600) if how == "head" else len(data)
        for _ in range(rng.choice((1, 3, 20, 200))):
            data[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[rng.randrange(len(data)) :]
    elif how == "zeros":
        start = rng.randrange(len(data))
        data[start : start + 256] = bytes(len(data[start : start + 256]))
    elif how == "twice":
        data += data[: rng.randrange(len(data))]
    elif how == "splice":
        start = rng.randrange(len(data))
        del data[start : start + rng.randrange(1, 64)]
    elif how in ("size", "long"):  # a size field somewhere in the head, little or big endian
        value = rng.choice(SIZES if how == "size" else LONG_SIZES)
        start = rng.randrange(min(len(data), 2000))
        data[start : start + len(value)] = value
    elif how == "field":
        field = rng.choice(list(DICOM_FIELDS))
        if (start := data.find(field)) >= 0:
            data[start + 8 : start + 10] = rng.choice(SIZES)
    elif how == "number":  # number of frames, slope, intercept, spacing: decimal strings
        tag = rng.choice((b"\x28\x00\x08\x00IS", b"\x28\x00\x53\x10DS", b"\x28\x00\x52\x10DS", b"\x28\x00\x30\x00DS"))
        if (start := data.find(tag)) >= 0:
            length = int.from_bytes(data[start + 6 : start + 8], "little")
            data[start + 8 : start + 8 + length] = rng.choice(NUMBERS)[:length].ljust(length)
    elif how == "ihdr":  # an absurd size with a right checksum, so that decoders believe it
        data[16:24] = struct.pack(">II", rng.choice((0, 1, 60000, 2**31 - 1)), rng.choice((1, 60000, 2**31 - 1)))
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif how == "nan":
        start = len(data) - 4 * rng.randrange(1, 100)
        data[start : start + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"))))
    return data, how
