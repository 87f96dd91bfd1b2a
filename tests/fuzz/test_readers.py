"""Damaged files through every reader: a value or one line for the user, never what a user reads as "internal error"."""

import random
import shutil
import warnings
import zlib

import pytest
from fuzz_seed import SEED
from table import READERS

from attn.core.errors import AttnError


def hurt(reader, count, seed, folder):
    """Read ``count`` damaged files; returns how many could be read and how many were refused."""
    read = refused = 0
    for number in range(count):
        rng = random.Random(f"{seed} {reader.name} {number}")
        place = folder / "in"
        path = reader.damaged(rng, place)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader.read(path)
            read += 1
        except AttnError as error:
            refused += 1
            if "\n" in (text := str(error)) or len(text) > 1200:
                raise AssertionError(f"not one line: {reader.name}, seed {seed}, number {number}") from error
        except Exception as error:
            raise AssertionError(f"internal error: {reader.name}, seed {seed}, number {number}") from error
        shutil.rmtree(place)
    return read, refused


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files(reader, tmp_path):
    assert sum(hurt(reader, 12, SEED, tmp_path)) == 12


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_two_hundred_damaged_files(reader, tmp_path):
    read, refused = hurt(reader, 200, SEED + 1, tmp_path)
    assert read + refused == 200
    assert refused, "the damage does no harm"


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_whole_files_are_read(reader, tmp_path):
    for name, data in reader.files().items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    reader.read(tmp_path / reader.target if reader.target and len(reader.files()) == 1 else tmp_path)


def test_the_same_seed_gives_the_same_damage(tmp_path):
    reader = READERS[-1]
    first, again = (reader.damaged(random.Random(3), tmp_path / name) for name in "ab")
    assert zlib.crc32(first.read_bytes()) == zlib.crc32(again.read_bytes())
