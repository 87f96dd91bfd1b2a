"""PNG: 16 bits in every colour type, metadata that is kept and never unpacked."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from attn.core import memory
from attn.core.errors import InputError
from attn.core.io import Derivation, read_grey, write_grey

IMAGE16 = np.random.default_rng(0).integers(0, 65536, (13, 17)).astype(np.uint16)
DERIVED = Derivation("how", "denoised", "1")


def chunks_of(data):
    at, found = 8, []
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def with_chunks(path, *added):
    """Put chunks behind the header of the PNG at ``path``."""
    data = path.read_bytes()
    parts = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in added
    )
    path.write_bytes(data[:33] + parts + data[33:])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bits_in_colour_and_with_alpha(channels, tmp_path):
    alpha = np.full_like(IMAGE16, 65535)
    alpha[:4] = 0
    grey = [IMAGE16] if channels == 2 else [IMAGE16] * 3
    samples = np.stack([*grey, alpha] if channels != 3 else grey, -1)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(samples))
    image = read_grey(tmp_path / "a.png")
    np.testing.assert_array_equal(image.stored[0], IMAGE16)
    pixels = image.pixels + 1
    write_grey(image, pixels, tmp_path / "out.png", DERIVED)
    out = imagecodecs.png_decode((tmp_path / "out.png").read_bytes())
    expected = np.minimum(IMAGE16.astype(int) + 1, 65535)
    if channels == 3:
        np.testing.assert_array_equal(out, expected)
    else:
        np.testing.assert_array_equal(image.valid[0], alpha > 0)
        np.testing.assert_array_equal(out[..., 1], alpha)
        np.testing.assert_array_equal(out[4:, :, 0], expected[4:])
        np.testing.assert_array_equal(out[:4, :, 0], IMAGE16[:4])


def test_sixteen_bit_colour_is_refused_or_converted(tmp_path):
    colour = np.stack([IMAGE16, IMAGE16, IMAGE16 // 2], -1)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(colour))
    with pytest.raises(InputError, match=r"colour.*--luma"):
        read_grey(tmp_path / "a.png")
    image = read_grey(tmp_path / "a.png", luma=True)
    np.testing.assert_allclose(image.pixels[0], colour @ np.array([0.299, 0.587, 0.114]), atol=0.51)


def test_metadata_is_carried_over_as_it_is(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "somebody")
    info.add_itxt("Comment", "größer", zip=True)
    Image.fromarray(IMAGE16).save(tmp_path / "a.png", dpi=(300, 150), pnginfo=info)
    with_chunks(tmp_path / "a.png", (b"gAMA", struct.pack(">I", 45455)), (b"bKGD", b"\0\0"), (b"vpAg", b"12"))
    image = read_grey(tmp_path / "a.png")
    assert image.warnings == ("not carried over: bKGD, vpAg",)
    write_grey(image, image.pixels, tmp_path / "b.png", DERIVED)
    before, after = (chunks_of((tmp_path / name).read_bytes()) for name in ("a.png", "b.png"))
    for kind in (b"gAMA", b"pHYs", b"tEXt", b"iTXt"):
        assert {body for other, body in before if other == kind} <= {body for other, body in after if other == kind}
    write_grey(read_grey(tmp_path / "b.png"), image.pixels, tmp_path / "c.png", DERIVED)
    texts = [body for kind, body in chunks_of((tmp_path / "c.png").read_bytes()) if kind == b"tEXt"]
    assert texts.count(b"Description\0how") == 1
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "c.png")), IMAGE16)


def test_a_transparent_grey_value_is_not_filtered(tmp_path):
    Image.fromarray(IMAGE16).save(tmp_path / "a.png")
    with_chunks(tmp_path / "a.png", (b"tRNS", struct.pack(">H", int(IMAGE16[2, 3]))))
    image = read_grey(tmp_path / "a.png")
    np.testing.assert_array_equal(image.valid[0], IMAGE16 != IMAGE16[2, 3])
    write_grey(image, np.zeros_like(image.pixels), tmp_path / "b.png")
    again = read_grey(tmp_path / "b.png")
    assert again.stored[0, 2, 3] == IMAGE16[2, 3]
    np.testing.assert_array_equal(again.valid, image.valid)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_what_packed_metadata_unpack_to_does_not_matter(kind, tmp_path):
    Image.fromarray(IMAGE16).save(tmp_path / "a.png")
    heads = {b"iCCP": b"x\0\0", b"zTXt": b"x\0\0", b"iTXt": b"x\0\1\0\0\0"}
    with_chunks(tmp_path / "a.png", (kind, heads[kind] + zlib.compress(bytes(2**27))))
    image = read_grey(tmp_path / "a.png")
    np.testing.assert_array_equal(image.stored[0], IMAGE16)
    write_grey(image, image.pixels, tmp_path / "b.png")
    assert read_grey(tmp_path / "b.png").source["chunks"] == image.source["chunks"]


def test_a_size_beyond_the_budget_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("L", (16380, 16380)).save(tmp_path / "a.png", compress_level=1)
    memory.set_budget(2**30)
    try:
        with pytest.raises(InputError, match="16380 x 16380 pixels, which take"):
            read_grey(tmp_path / "a.png")
    finally:
        memory.set_budget(None)


def test_damage_is_seen_by_its_checksum(tmp_path):
    Image.fromarray(IMAGE16).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[60] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match="checksum differs"):
        read_grey(tmp_path / "a.png")


@pytest.mark.parametrize("bits", [2, 4])
def test_fewer_bits_are_written_with_eight_and_told(bits, tmp_path):
    values = IMAGE16[:, :16] >> (16 - bits)
    rows = [
        b"\0" + np.packbits((row[:, None] >> np.arange(bits - 1, -1, -1) & 1).astype(bool)).tobytes() for row in values
    ]
    header = struct.pack(">IIBBBBB", 16, 13, bits, 0, 0, 0, 0)
    path = tmp_path / "a.png"
    body = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in body)
    )
    image = read_grey(path)
    np.testing.assert_array_equal(image.pixels[0], values * (255 // (2**bits - 1)))
    assert f"grey of {bits} bits is written with 8" in image.warnings
