"""Files that promise or unpack to more than the budget of memory: refused by their header, or while they unpack."""

import gzip
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from attn.core import memory
from attn.core.errors import InputError
from attn.core.io import read_grey


@pytest.fixture(autouse=True)
def _budget():
    memory.set_budget(2**28)
    tracemalloc.start()
    yield
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    memory.set_budget(None)
    assert most < 2**27


def nifti(sides, version=1):
    if version == 1:
        head = bytearray(352)
        struct.pack_into("<i", head, 0, 348)
        struct.pack_into("<8h", head, 40, len(sides), *sides, *[1] * (7 - len(sides)))
        struct.pack_into("<2h", head, 70, 4, 16)  # int16
        struct.pack_into("<3f", head, 108, 352, 1, 0)
        head[344:348] = b"n+1\0"
    else:
        head = bytearray(544)
        struct.pack_into("<i", head, 0, 540)
        head[4:12] = b"n+2\0\r\n\x1a\n"
        struct.pack_into("<2h", head, 12, 4, 16)
        struct.pack_into("<8q", head, 16, len(sides), *sides, *[1] * (7 - len(sides)))
        struct.pack_into("<q", head, 168, 544)
        struct.pack_into("<2d", head, 176, 1, 0)
    return bytes(head)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti(name, version, tmp_path):
    pytest.importorskip("nibabel", reason="nibabel is an optional extra: pip install nibabel")
    data = nifti((600, 600, 600), version) + bytes(2**20)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(InputError, match=r"600 x 600 x 600 pixels, which take .* GiB.*--max-memory"):
        read_grey(tmp_path / name)


def test_what_follows_the_voxels_is_counted_while_it_unpacks(tmp_path):
    pytest.importorskip("nibabel", reason="nibabel is an optional extra: pip install nibabel")
    with gzip.open(tmp_path / "a.nii.gz", "wb", compresslevel=1) as file:
        file.write(nifti((5, 5, 5)) + bytes(250))
        for _ in range(100):
            file.write(bytes(2**20))
    with pytest.raises(InputError, match="behind its voxels more than 85"):
        read_grey(tmp_path / "a.nii.gz")


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, parts in members.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                for part in parts:
                    member.write(part)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("head", [b"", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", b"\x93NUMPY\x01\x00\x10\x00"])
def test_a_giant_beside_the_wanted_array_is_not_unpacked(head, tmp_path):
    image = np.arange(63.0).reshape(7, 9)
    archive(tmp_path / "a.npz", giant=[head, *[bytes(2**20)] * 300], image=[npy(image)])
    for name in ("a.npz", "a.npz#image"):
        np.testing.assert_array_equal(read_grey(tmp_path / name).pixels[0], image)
    assert "giant" in read_grey(tmp_path / "a.npz").warnings[0]
    with pytest.raises(InputError):
        read_grey(tmp_path / "a.npz#giant")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ", 2)}", "cannot be read|claims"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (90000, 90000)}", "claims 90000 x 90000 pixels"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 8)}", "cut off: expected 288 bytes, found 64"),
        ("null", "cannot be read"),
        ("(" * 9000, "cannot be read"),
        ("{}" + " " * 70000, "header of 70002 bytes"),
    ],
    ids=lambda text: text[:60],
)
def test_headers_of_arrays(suffix, text, message, tmp_path):
    data = b"\x93NUMPY\2\0" + struct.pack("<I", len(text)) + text.encode() + bytes(64)
    if suffix == ".npy":
        (tmp_path / "a.npy").write_bytes(data)
    else:
        archive(tmp_path / "a.npz", image=[data])
    with pytest.raises(InputError, match=message) as caught:
        read_grey(tmp_path / f"a{suffix}")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_zip_that_is_no_npz_and_damage_in_a_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("scan.dcm", b"x")
    with pytest.raises(InputError, match=r"ZIP archive that holds no NumPy array, but scan\.dcm.*Unpack it"):
        read_grey(tmp_path / "a.zip")
    archive(tmp_path / "b.npz", image=[npy(np.random.default_rng(0).random((40, 40)))])
    data = bytearray((tmp_path / "b.npz").read_bytes())
    data[5000] ^= 255
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as NPZ"):
        read_grey(tmp_path / "b.npz")
