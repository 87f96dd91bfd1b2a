"""The budget: where it comes from, and that nothing gets past it."""

import gzip
import io
import platform

import pytest

from attn.core import memory
from attn.core.bundles import Memory
from attn.core.errors import InputError, UsageError
from attn.core.options import build


@pytest.fixture(autouse=True)
def _no_budget(monkeypatch):
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    memory.set_budget(None)
    yield
    memory.set_budget(None)


def test_what_was_set_goes_before_the_environment_and_that_before_the_machine(monkeypatch):
    assert memory.budget() == max(memory.LEAST, memory.machine_memory() // 2)
    monkeypatch.setenv(memory.VARIABLE, "512m")
    assert memory.budget() == 2**29
    memory.set_budget(2**28)
    assert memory.budget() == 2**28


@pytest.mark.parametrize("text", ["", "much", "-1g", "1k", "63m", "nan"])
def test_what_is_no_budget(text):
    with pytest.raises(UsageError, match="max_memory: "):
        build(Memory, {"max_memory": text})


def test_a_need_above_the_budget_is_refused_with_both_numbers():
    memory.set_budget(2**30)
    memory.check_memory("a.png", 2**30)
    with pytest.raises(InputError, match=r"a\.png: its pixels take 2\.0 GiB of memory.* 1\.0 GiB\. .*--max-memory"):
        memory.check_memory("a.png", 2**31)


def test_a_stream_is_not_unpacked_beyond_the_limit():
    packed = io.BytesIO(gzip.compress(bytes(2**26)))
    with pytest.raises(InputError, match=r"unpacks to more than 1\.0 MiB"):
        memory.read_within(gzip.GzipFile(fileobj=packed), "a.gz", 2**20)
    assert packed.tell() < 2**20
    assert memory.read_within(io.BytesIO(b"ab" * 5), "a", 10) == b"ab" * 5


def test_a_counted_stream_gives_lines_and_stops():
    lines = io.BufferedReader(memory.Counted(io.BytesIO(b"a\nb\n"), "a", 100))
    assert list(lines) == [b"a\n", b"b\n"]
    with pytest.raises(InputError, match="unpacks to more than 100 B"):
        list(io.BufferedReader(memory.Counted(io.BytesIO(b"\n" * 101), "a", 100)))


def test_freed_memory_is_kept_where_the_allocator_can_be_told():
    assert memory.keep_freed_memory() or platform.libc_ver()[0] != "glibc"
