"""Sizes as people type them."""

import pytest

from attn.core.errors import UsageError
from attn.core.sizes import parse_grid, parse_size, parse_sizes, show_bytes, show_size, show_sizes


@pytest.mark.parametrize(
    ("text", "value"), [("512", 512), ("4k", 4096), ("128K", 131072), ("1m", 2**20), ("1.5k", 1536), (" 2g ", 2**31)]
)
def test_size(text, value):
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["0", "abc", "", "-4k", "4kb", "0.3k", "1e3", "k", "4k..8k"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("4k", (4096,)),
        ("16k,4k,4k", (4096, 16384)),
        ("1k..8k", (1024, 2048, 4096, 8192)),
        ("1k..5k", (1024, 2048, 4096, 5120)),
        ("512,1k..2k", (512, 1024, 2048)),
        ("4k..4k", (4096,)),
    ],
)
def test_sizes(text, values):
    assert parse_sizes(text) == values


def test_a_range_that_runs_backwards():
    with pytest.raises(UsageError, match=r"runs backwards. Write 4k..8k"):
        parse_sizes("8k..4k")


def test_grid():
    assert parse_grid("256x128") == (256, 128)
    assert parse_grid("4x45X80", 3) == (4, 45, 80)
    for text in ("256", "0x4", "axb", "1x2x3"):
        with pytest.raises(UsageError, match="is no grid"):
            parse_grid(text)


def test_shown_sizes_read_back():
    for value in (1, 1000, 1024, 4096, 131072, 2**20, 1536):
        assert parse_size(show_size(value)) == value
    assert show_sizes((4096, 100)) == "4k,100"
    assert show_bytes(512) == "512 B"
    assert show_bytes(1.5 * 2**30) == "1.5 GiB"
