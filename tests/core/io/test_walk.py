import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attn.core.errors import UsageError
from attn.core.io import EXAMPLES, Input, expand_inputs, output_path, output_paths, read_grey
from attn.core.io.walk import Passed, read_list


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path, "PNG")
    return path


@pytest.fixture
def tree(tmp_path, make_dicom):
    root = tmp_path / "Köln scans"
    for name in ("b.png", "a/c.PNG", "a/.hidden.png", ".git/d.png", "b.denoised.png", "notes.txt", "a/volume.nii.gz"):
        png(root / name)
    for name in ("a/IM0001", "a/1.2.840.10", "DICOMDIR", "a/IM0001.denoised"):
        make_dicom(root / name, np.zeros((2, 2), np.int16))
    (root / "a" / "plain").write_text("no image")
    (root / "broken.dcm").write_bytes(b"")
    return root


def test_directory(tree):
    found = expand_inputs([str(tree)])
    names = [item.path.relative_to(tree).as_posix() for item in found]
    assert names == ["b.png", "broken.dcm", "a/1.2.840.10", "a/IM0001", "a/c.PNG", "a/volume.nii.gz"]
    assert {item.root for item in found} == {tree}
    assert expand_inputs([str(tree)]) == found  # the order is the same each time


def test_what_comes_with_a_result_is_passed_by(tmp_path):
    for name in ("scan.png", "scan.sigma.png", "scan.figure.png", "phase.sigma.png"):
        png(tmp_path / name)
    assert [item.path.name for item in expand_inputs([str(tmp_path)])] == ["phase.sigma.png", "scan.png"]


def test_files_globs_and_lists(tree, monkeypatch):
    lines = io.StringIO(f"{tree}/b.png\r\n\n{tree}/a/c.PNG\n")
    assert [item.path.name for item in expand_inputs(["-"], stdin=lines)] == ["b.png", "c.PNG"]
    assert [item.path.name for item in expand_inputs([f"{tree}/*.png"])] == ["b.denoised.png", "b.png"]
    assert [item.path.name for item in expand_inputs([f"{tree}/**/c.*"])] == ["c.PNG"]
    png(tree / "x[1].png")  # a file whose name looks like a pattern is that file
    assert [item.path.name for item in expand_inputs([f"{tree}/x[1].png"])] == ["x[1].png"]
    monkeypatch.chdir(tree)
    found = expand_inputs(["b.png", "./b.png", ".", str(tree / "b.png")])
    assert [item.name for item in found].count("b.png") == 1  # each file once
    assert len(found) == 7


def test_lists_on_stdin(tmp_path):
    """As bytes: a name need not be UTF-8, and with NUL between them a name may hold a line end."""
    odd = os.fsdecode(b"\xff\xe9.png")
    stream = io.TextIOWrapper(io.BytesIO(b"a b.png\r\n\n" + os.fsencode(odd) + b"\nlast"), encoding="utf-8")
    assert read_list(stream) == ["a b.png", odd, "last"]
    assert read_list(io.BytesIO(b"one\ntwo.png\0-x\0"), nul=True) == ["one\ntwo.png", "-x"]
    assert read_list(io.StringIO("a\nb")) == read_list(["a", "b"]) == ["a", "b"]
    assert read_list(["one\ntwo"]) == ["one\ntwo"]
    assert read_list(io.BytesIO(b"\xef\xbb\xbfa.png\n")) == ["a.png"]
    for data, message in ((b"a\0b\0", "Add -0"), (b"\xff\xfea\0", "UTF-16")):
        with pytest.raises(UsageError, match=message):
            read_list(io.BytesIO(data))
    png(tmp_path / odd)
    (item,) = expand_inputs(["-"], stdin=io.BytesIO(os.fsencode(tmp_path / odd) + b"\n"))
    assert item.error is None
    assert output_path(item, tmp_path / "out") == tmp_path / "out" / odd


def test_stdin_that_is_closed(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="closed"):
        expand_inputs(["-"])


def bare(path: Path) -> Path:
    """A DICOM data set without preamble or header: Implicit VR, little endian, from group 0008 on."""
    uid = b"1.2.840.10008.5.1.4.1.1.2\0"
    path.write_bytes(b"\x08\0\x16\0" + len(uid).to_bytes(4, "little") + uid)
    return path


def test_dicom_is_known_by_its_bytes_and_the_rest_is_named(tmp_path, make_dicom):
    for name in ("a.img", "a.MR", "a.dc3", "IM.0001", "IM.0002", "1.2.840.1", "1.2.840.2"):
        make_dicom(tmp_path / name, np.zeros((2, 2), np.int16))
    bare(tmp_path / "b.CT")
    make_dicom(tmp_path / "x.denoised.dcm", np.zeros((2, 2), np.int16))
    (tmp_path / "content").write_bytes(bytes(128) + b"DICM" + b"\2\0\2\0UI\x16\x001.2.840.10008.1.3.10\0")
    for name in ("notes.txt", "b.jpg", "c.pdf", "d.doc", "README"):
        (tmp_path / name).write_text("text")
    os.mkfifo(tmp_path / "pipe")
    passed = Passed()
    found = expand_inputs([str(tmp_path)], passed=passed)
    names = ["1.2.840.1", "1.2.840.2", "IM.0001", "IM.0002", "a.MR", "a.dc3", "a.img", "b.CT"]
    assert [item.path.name for item in found] == names
    assert {row["why"]: row["files"] for row in passed.rows()} == {
        "files without suffix that are no DICOM": 1,
        "files of an unknown suffix": 4,
        "DICOMDIR files, which hold no image": 1,
        "files that cannot be opened": 1,
        "results of earlier runs": 1,
    }
    unknown = next(row["names"] for row in passed.rows() if "unknown" in row["why"])
    assert unknown == ", ".join(str(tmp_path / name) for name in ("b.jpg", "c.pdf", "d.doc")) + " and 1 more"
    for out in (None, tmp_path / "out"):
        targets = output_paths(found, out)
        assert len({path.name for path in targets}) == len(found)
    assert [path.name for path in output_paths(found, None)][3:6] == [
        "IM.0002.denoised", "a.denoised.MR", "a.denoised.dc3",
    ]  # fmt: skip


def test_hidden_files_and_folders_are_named(tmp_path):
    for name in ("a.png", ".b.png", ".trash/c.png"):
        png(tmp_path / name)
    passed = Passed()
    assert [item.path.name for item in expand_inputs([str(tmp_path)], passed=passed)] == ["a.png"]
    (row,) = passed.rows()
    assert (row["why"], row["files"]) == ("hidden files and folders", 2)
    assert row["names"] == f"{tmp_path / '.b.png'}, {tmp_path / '.trash'}"


def test_links_to_folders_are_followed_once(tmp_path):
    png(tmp_path / "far" / "x.png")
    png(tmp_path / "tree" / "sub" / "y.png")
    for name, target in (("a", tmp_path / "far"), ("again", tmp_path / "far"), ("sub/up", tmp_path / "tree")):
        (tmp_path / "tree" / name).symlink_to(target)
    passed = Passed()
    found = expand_inputs([str(tmp_path / "tree")], passed=passed)
    assert [item.name.removeprefix(str(tmp_path)) for item in found] == ["/tree/sub/y.png", "/tree/a/x.png"]
    assert [(row["why"], row["files"]) for row in passed.rows()] == [("links to folders that are read already", 2)]


def test_results_in_the_folder_that_is_read_are_no_inputs(tmp_path):
    png(tmp_path / "a.png")
    png(tmp_path / "out" / "a.png")
    passed = Passed()
    assert len(expand_inputs([str(tmp_path)], output=tmp_path / "out", passed=passed)) == 1
    assert passed.rows()[0]["names"] == str(tmp_path / "out")
    assert len(expand_inputs([str(tmp_path / "out")], output=tmp_path / "out")) == 1  # asked for by name


def test_an_empty_name_is_not_the_current_directory(monkeypatch, tmp_path):
    png(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    (item,) = expand_inputs([""])
    assert "empty" in str(item.error)


def test_what_is_missing_fails_alone(tree):
    found = expand_inputs([f"{tree}/b.png", "none.png", "x" * 5000, "no*match.png", f"{tree}/b.png/c", "nul\0", "*\0"])
    assert [item.error is None for item in found] == [True] + [False] * 6
    assert "does not exist" in str(found[1].error)
    assert "matches no file" in str(found[3].error)


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty").mkdir()
    for inputs in ([], [str(tmp_path / "empty")], ["-"]):
        with pytest.raises(UsageError, match="nothing to read"):
            expand_inputs(inputs, stdin=[])
    png(tmp_path / "a.png")
    found = expand_inputs([str(tmp_path / "a.png"), str(tmp_path / "empty")])
    assert [item.error is None for item in found] == [True, False]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_directory_without_permission(tree):
    os.chmod(tree / "a", 0)
    try:
        found = expand_inputs([str(tree)])
    finally:
        os.chmod(tree / "a", 0o755)
    assert "cannot be listed" in str(found[-1].error)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_reads_without_download(name, monkeypatch):
    import socket

    monkeypatch.setattr(socket, "socket", None)
    (item,) = expand_inputs([f"example:{name}"])
    assert item.error is None
    image = read_grey(item.path)
    what = EXAMPLES[name][0]
    assert f"{image.pixels.shape[1]} x {image.pixels.shape[2]}" in what
    assert ("CT" in what) == (image.unit == "HU")


def test_unknown_example():
    with pytest.raises(UsageError, match=r"Did you mean camera\?"):
        expand_inputs(["example:camra"])


def test_beside_the_input(tmp_path):
    for name, expected in (
        ("scan.dcm", "scan.denoised.dcm"),
        ("philips", "philips.denoised"),
        ("v.nii.gz", "v.denoised.nii.gz"),
        ("1.2.840.10", "1.2.840.10.denoised"),
        ("pair.npz#noisy", "pair.noisy.denoised.npz"),
    ):
        assert output_path(Input(tmp_path / name, name), None) == tmp_path / expected
    assert output_path(Input(tmp_path / "a.dcm", "a"), None, word="x", suffix=".png") == tmp_path / "a.x.png"


def test_example_goes_to_the_current_directory():
    (item,) = expand_inputs(["example:ct"])
    assert output_path(item, None) == Path("CT_small.denoised.dcm")


def test_output_directory_and_file(tree, tmp_path):
    item = Input(tree / "b.png", "b.png")
    assert output_path(item, tmp_path / "new.png") == tmp_path / "new.png"
    assert output_path(item, f"{tmp_path}/new/") == tmp_path / "new" / "b.png"
    assert output_path(item, tmp_path) == tmp_path / "b.png"  # exists
    for single in (True, False):  # a directory, however many inputs there are
        for name in ("new", "v1.2", "2024.11"):
            assert output_path(item, tmp_path / name, single=single) == tmp_path / name / "b.png"
    with pytest.raises(UsageError, match=r"new\.png names one file"):
        output_path(item, tmp_path / "new.png", single=False)
    with pytest.raises(UsageError, match=r"new\.png names one file"):
        output_path(Input(tree / "b.png", "b.png", root=tree), tmp_path / "new.png")
    with pytest.raises(UsageError, match=r"not as \.jpg"):
        output_path(item, tmp_path / "new.jpg")
    (tmp_path / "file").write_text("")
    for out in ("file", "file/", "file/below", "x" * 300, "nul\0"):
        with pytest.raises(UsageError, match=r"^-o "):
            output_paths([item], tmp_path / out)
    (inner,) = [one for one in expand_inputs([str(tree)]) if one.path.name == "IM0001"]
    assert output_path(inner, tmp_path / "new") == tmp_path / "new" / "a" / "IM0001"


def test_another_kind_than_the_input_is_refused(tree, tmp_path):
    with pytest.raises(UsageError, match=r"b\.png is png.*Name it out\.png"):
        output_path(Input(tree / "b.png", "b.png"), tmp_path / "out.dcm")


def test_the_input_is_never_overwritten(tree, monkeypatch):
    item = Input(tree / "b.png", "b.png")
    os.link(tree / "b.png", tree / "link.png")
    monkeypatch.chdir(tree / "a")
    for out in (tree, tree / "b.png", "../b.png", tree / "link.png"):
        with pytest.raises(UsageError, match="overwrite"):
            output_path(item, out)
    with pytest.raises(UsageError, match="overwrite"):  # one result on top of the other input
        output_paths([Input(tree / "b.png", "b.png"), Input(tree / "b.denoised.png", "b.denoised.png")], None)


def test_inputs_that_would_meet_keep_their_directories(tmp_path):
    items = [Input(tmp_path / place / "1.dcm", place) for place in ("x/a", "x/b", "y")]
    items.append(Input(tmp_path / "y" / "2.dcm", "2"))
    out = tmp_path / "out"
    targets = output_paths(items, out)
    assert targets == [out / "x/a/1.dcm", out / "x/b/1.dcm", out / "y/1.dcm", out / "2.dcm"]
    same = [Input(tmp_path / "a.dcm", "a.dcm"), Input(tmp_path / "a.png", "a.png")]
    assert [path.name for path in output_paths(same, out, suffix=".svg")] == ["a.dcm.svg", "a.png.svg"]
    beside = output_paths(same, None, word="mask", suffix=".png")
    assert [path.name for path in beside] == ["a.dcm.mask.png", "a.png.mask.png"]
    with pytest.raises(UsageError, match=r"x and y would both"):
        output_paths([Input(tmp_path / "a.dcm", "x"), Input(tmp_path / "a.dcm", "y")], out)


def test_walking_costs_no_imaging_library():
    import subprocess
    import sys

    code = "import sys, attn.core.io as i; i.expand_inputs(['example:ct']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "pydicom", "skimage", "scipy", "PIL", "tifffile", "nibabel", "matplotlib"}


def test_shutil_copy_is_another_file(tree):
    shutil.copy(tree / "b.png", tree / "copy.png")
    assert len(expand_inputs([str(tree / "b.png"), str(tree / "copy.png")])) == 2
