import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attn.core.errors import InputError
from attn.core.io import read_grey, write, write_grey

DTYPES = ("?", "u1", "<i2", ">i2", "u2", "i4", "u4", "i8", "u8", "f2", "<f4", ">f4", "f8")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_write_then_read_gives_the_same_values(suffix, data, tmp_path_factory):
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = data.draw(st.lists(st.integers(1, 7), min_size=2, max_size=3).filter(lambda s: s[-1] not in (3, 4)))
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None
    array = data.draw(arrays(dtype, tuple(shape), elements=finite))
    place = tmp_path_factory.mktemp("x")
    write(place / f"a{suffix}", array)
    image = read_grey(place / f"a{suffix}")
    write_grey(image, image.pixels, place / f"b{suffix}")
    again = np.load(place / f"b{suffix}")
    again = again["image"] if suffix == ".npz" else again
    np.testing.assert_array_equal(again, array)
    assert (again.dtype, again.shape) == (array.dtype, array.shape)


def test_the_name_does_not_matter(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(5))
    (tmp_path / "a.npy").rename(tmp_path / "scan.dat")
    assert read_grey(tmp_path / "scan.dat").kind == "npy"


def test_changed_values_are_rounded_and_clipped(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, 2, 3, 4, 5]], np.int8))
    image = read_grey(tmp_path / "a.npy")
    write_grey(image, np.array([[[0.5, 2.5, -200, 300, 5]]], np.float32), tmp_path / "b.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), [[0, 2, -128, 127, 5]])
    np.save(tmp_path / "c.npy", np.zeros((1, 2), np.int64))
    image = read_grey(tmp_path / "c.npy")
    write_grey(image, np.array([[[1e30, -1e30]]]), tmp_path / "d.npy")
    assert np.load(tmp_path / "d.npy")[0, 0] > 2**62  # not wrapped around
    assert np.load(tmp_path / "d.npy")[0, 1] == -(2**63)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1, None]], dtype=object), "pickled"),
        (np.zeros((3, 3), complex), "complex"),
        (np.zeros((2, 2, 2, 2)), "4 axes"),
        (np.zeros(5), "1 axes"),
        (np.zeros((0, 5)), "no pixels"),
        (np.array([["a"]]), "values of type"),
        (np.zeros((2, 2), [("x", "f4")]), "values of type"),
    ],
    ids=str,
)
def test_what_is_no_image_is_refused(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        read_grey(tmp_path / "a.npy")


def test_absurd_shape_is_refused_before_allocating(tmp_path):
    for shape, message in (((9999999, 999999), "budget"), ((1000, 1000), "cut off"), ((4, -4), "no pixels")):
        with open(tmp_path / "a.npy", "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(64))
        tracemalloc.start()
        with pytest.raises(InputError, match=message):
            read_grey(tmp_path / "a.npy")
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


def test_keys_of_an_archive(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, clean=np.ones((3, 5)), noisy=np.zeros((3, 5)), scale=np.float32(3))
    assert read_grey(path).pixels.max() == 0  # 'noisy' is one of the names taken for the image
    assert read_grey(f"{path}#clean").pixels.min() == 1
    write_grey(read_grey(f"{path}#clean"), np.full((1, 3, 5), 2.0), tmp_path / "b.npz")
    assert list(np.load(tmp_path / "b.npz")) == ["clean"]
    with pytest.raises(InputError, match=r"no array 'claen'.*Did you mean clean"):
        read_grey(f"{path}#claen")
    np.savez(path, first=np.ones((3, 5)), second=np.zeros((3, 5)))
    with pytest.raises(InputError, match=r"Keys: first, second.*a\.npz#KEY"):
        read_grey(path)
    np.savez(path, first=np.ones((3, 5)), scale=np.float32(3))
    assert read_grey(path).source["key"] == "first"  # the only one that can be an image
    np.savez(path)
    with pytest.raises(InputError, match="no NumPy array"):
        read_grey(path)


def test_mayo_pair(data_dir):
    noisy, clean = (read_grey(f"{data_dir}/ct/mayo_slice_pair.npz#{key}") for key in ("noisy", "clean"))
    assert noisy.pixels.shape == (1, 512, 512)
    assert np.sqrt(np.mean((noisy.pixels - clean.pixels) ** 2)) == pytest.approx(0.01782, abs=1e-5)


def test_colour_arrays(tmp_path):
    grey = np.random.default_rng(0).random((9, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(read_grey(tmp_path / "a.npy").pixels[0], grey)
    np.save(tmp_path / "b.npy", np.stack([grey, grey, 1 - grey], -1))
    with pytest.raises(InputError, match="--luma"):
        read_grey(tmp_path / "b.npy")
    assert read_grey(tmp_path / "b.npy", luma=True).pixels.shape == (1, 9, 8)


def test_nan_names_count_and_place(tmp_path):
    array = np.ones((5, 6))
    array[2, 3:5] = np.nan
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match="NaN or infinite values: 2, the first at slice 0, row 2, column 3"):
        read_grey(tmp_path / "a.npy")
    image = read_grey(tmp_path / "a.npy", fill=0.25)
    assert image.pixels[0, 2, 3] == 0.25


def test_big_integers_keep_their_precision(tmp_path):
    array = np.array([[2**40 + 1, 5]])
    np.save(tmp_path / "a.npy", array)
    assert read_grey(tmp_path / "a.npy").pixels.dtype == np.float64
    assert read_grey(tmp_path / "a.npy").pixels[0, 0, 0] == 2**40 + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello, world\n", "is not NPY: it is text"),
        (b"\xff\xd8\xff\xe0 and so on", "JPEG"),
        (b"\xff\x0a\x41\x0e", "a JPEG XL picture"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"RIFF\x10\0\0\0WEBPVP8L", "WebP"),
        (b"7z\xbc\xaf\x27\x1c", "packed archive"),
        (b"\x93NUMPY", "cannot be read"),
        (b"\x00\x01\x02" * 99, "no known kind"),
    ],
)
def test_other_content_is_named(content, message, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_grey(tmp_path / "a.npy")


def test_places_that_are_no_files(tmp_path):
    import os

    for path, message in ((tmp_path / "none.npy", "does not exist"), (tmp_path, "is a directory")):
        with pytest.raises(InputError, match=message):
            read_grey(path)
    os.mkfifo(tmp_path / "pipe.npy")  # would block for ever
    with pytest.raises(InputError, match="not a regular file"):
        read_grey(tmp_path / "pipe.npy")
    with pytest.raises(InputError, match="cannot be opened"):
        read_grey("nul\0byte.npy")
