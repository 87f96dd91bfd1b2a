"""The wheel holds what a user needs and nothing that would land beside it in site-packages."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("attn-*.whl")
    return path


def test_top_level_names(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("attn-")} == {"attn"}


def test_every_module_marker_and_man_page_is_inside(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("cli", "core", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"attn/{path.relative_to(ROOT)}" in names
    assert {"attn/__init__.py", "attn/__main__.py", "attn/py.typed"} <= names
    weights = ("fsgnet.safetensors", "fsgnet.md", "fsgnet-free.safetensors", "fsgnet-free.md")
    assert {f"attn/core/segment/weights/{name}" for name in weights} <= names
    assert {f"attn/core/probe/scanpath/weights/shelves.{end}" for end in ("safetensors", "md")} <= names
    vectors = {path.relative_to(ROOT / "tests/golden/vectors") for path in (ROOT / "tests/golden").rglob("*.npz")}
    vectors = {path for path in vectors if path.parts[0] != "tempscale"}  # texts of a collection that is not ours
    assert not any(name.startswith("attn/golden/tempscale") for name in names)
    assert {f"attn/golden/{path}" for path in vectors} <= names  # attn bench --selftest
    assert not any(name.startswith("attn/golden/") and not name.endswith(".npz") for name in names)
    pages = {Path(name).name for name in names if "/share/man/man1/" in name}
    assert pages == {path.name for path in (ROOT / "man").glob("*.1")} != set()


def test_wheel_imports_and_runs_without_the_checkout(wheel, tmp_path):
    """Unpacked into an empty folder: the package must not lean on the checkout or on top-level cli, core, kernels."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        f"import sys; checkout = ({str(ROOT)!r}, {str(ROOT / '.src')!r});"
        f"sys.path[:] = [{str(tmp_path)!r}, *(p for p in sys.path if p not in checkout)];"
        "import attn, importlib.util as u; assert attn.__file__.startswith(sys.path[0]), attn.__file__;"
        "assert not any(u.find_spec(n) for n in ('cli', 'core', 'kernels'));"
        "from attn.core.attention.golden import golden_dir; assert (golden_dir() / 'hip').is_dir(), golden_dir();"
        "sys.argv = ['attn', '--version']; from attn.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("attn ")
