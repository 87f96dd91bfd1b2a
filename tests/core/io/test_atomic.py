import os
import signal
import subprocess
import sys

import pytest

from attn.core.errors import InputError, UsageError
from attn.core.io import atomic


def test_file_appears_whole_and_only_at_the_end(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic.atomic_path(target) as temporary:
        temporary.write_text("half")
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".")
        assert "attn-tmp" in temporary.name
        assert str(os.getpid()) in temporary.name
        assert temporary.suffix == ".txt"
        assert not target.exists()
    assert target.read_text() == "half"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_failure_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail():
        with atomic.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_mode_of_a_replaced_file_is_kept(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    target.chmod(0o640)
    atomic.write_text(target, "neu ü\n")
    assert target.read_bytes() == "neu ü\n".encode()
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["file/b.txt", "x" * 300, "directory"])
def test_what_the_system_refuses_is_an_input_error(name, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "directory" / "full").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written"):
        atomic.write_bytes(tmp_path / name, b"x")
    assert not [path for path in tmp_path.rglob("*") if "attn-tmp" in path.name]


def test_long_names_fit(tmp_path):
    name = "ä" * 120 + ".dcm"
    atomic.write_bytes(tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x"


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(tmp_path):
    code = (
        "import sys, time\nfrom attn.core.io.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n t.write_text('half'); print('written', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.txt")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    assert atomic.remove_stale(tmp_path) == []  # it still runs
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    foreign = tmp_path / f".attn-tmp-00000000-{process.pid}-0-b.txt"  # of another machine
    foreign.write_text("")
    removed = atomic.remove_stale(tmp_path)
    assert [path.name.endswith("-a.txt") for path in removed] == [True]
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]


def test_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "new" / "folder"
    for text in ("one", "two"):
        with atomic.atomic_folder(target) as temporary:
            assert temporary.parent == target.parent
            assert list(temporary.iterdir()) == []
            (temporary / text).write_text(text)
            assert [path.name for path in target.glob("*")] == (["one"] if text == "two" else [])
    assert [path.name for path in target.iterdir()] == ["two"]
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("when", ["inside", "between the renames"])
def test_a_folder_that_fails_leaves_the_old_one_and_no_rest(tmp_path, monkeypatch, when):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "a").write_text("old")
    real, calls = os.replace, []

    def replace(source, goal):
        calls.append(goal)
        if len(calls) == 2 and when != "inside":
            raise OSError(28, "No space left on device")
        real(source, goal)

    def fill():
        with atomic.atomic_folder(target) as temporary:
            (temporary / "a").write_text("new")
            if when == "inside":
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(InputError, match="No space left"):
        fill()
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "a").write_text("mine")
    for place in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(InputError, match="cannot be written"), atomic.atomic_folder(place):
            pass
    assert (tmp_path / "a").read_text() == "mine"


def test_a_writer_whose_number_is_not_seen_keeps_its_file(tmp_path, monkeypatch):
    """As one in another container on shared storage: only the lock tells that it lives."""
    with atomic.atomic_path(tmp_path / "a.txt") as temporary:
        renamed = temporary.with_name(temporary.name.replace(f"-{os.getpid()}-", "-4194304999-"))
        temporary.rename(renamed)
        assert atomic.remove_stale(tmp_path) == []
        renamed.rename(temporary)
    with atomic.atomic_folder(tmp_path / "folder") as temporary:
        assert atomic.remove_stale(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]


def test_where_locks_say_nothing_age_does(tmp_path, monkeypatch):
    old, new = (tmp_path / f".attn-tmp-00000000-1-{n}-b.txt" for n in (0, 1))
    for path in (old, new):
        path.write_text("")
    os.utime(old, (1, 1))
    assert atomic.remove_stale(tmp_path) == [old]
    os.utime(new, (1, 1))
    monkeypatch.setattr(atomic, "_locked", lambda handle: None)  # a file system without locks
    with atomic.atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
        assert atomic.remove_stale(tmp_path) == []
    assert (tmp_path / "a.txt").read_text() == "x"


def test_every_writer_tidies_the_directory_that_it_writes_to(tmp_path, monkeypatch):
    """Training, figures and reports too: none of them has to remember it."""
    monkeypatch.setattr(atomic, "_TIDIED", set())
    leftover = tmp_path / f".attn-tmp-{atomic._host()}-1-0-last.pt"
    leftover.write_text("half")  # of process 1, which lives: its number says nothing
    atomic.write_text(tmp_path / "report.md", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_names_that_are_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff" * 120 + b".txt")
    atomic.write_text(path, "x")
    assert path.read_text() == "x"
    with pytest.raises(InputError, match="NUL"):
        atomic.write_text(tmp_path / "a\0b", "x")


def test_places_are_judged_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name, fault in (
        ("new/folder/a.txt", ""),
        ("file", ""),
        (".", "is a directory"),
        ("pipe", "no regular file"),
        ("file/a.txt", "is a file, not a directory"),
        ("nowhere/a.txt", "link to nowhere"),
        ("x" * 256, "256 bytes"),
        ("a\0b", "null byte"),
        ("x" * 256 + "/a", "too long"),
    ):
        found = atomic.place_fault(os.path.join(tmp_path, name))
        assert (fault in found) if fault else (found == "")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match=r"plot a\.doc: the file is written as \.png or \.svg"):
        atomic.check_place("plot", "a.doc", (".png", ".svg"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    assert "may not be written" in atomic.place_fault(tmp_path / "a.txt")
    tmp_path.chmod(0o700)
