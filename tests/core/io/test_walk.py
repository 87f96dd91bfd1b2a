import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attn.core.errors import UsageError
from attn.core.io import EXAMPLES, Input, expand_inputs, output_path, output_paths, read_image


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


def test_what_is_missing_fails_alone(tree):
    found = expand_inputs([f"{tree}/b.png", "none.png", "x" * 5000, "no*match.png", f"{tree}/b.png/c", "nul\0"])
    assert [item.error is None for item in found] == [True] + [False] * 5
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
    image = read_image(item.path)
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
    assert output_path(item, tmp_path / "new", single=False) == tmp_path / "new" / "b.png"
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
    with pytest.raises(UsageError, match=r"a\.dcm and a\.png would both"):
        output_paths(same, out, suffix=".svg")


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
