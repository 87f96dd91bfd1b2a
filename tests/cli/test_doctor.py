"""`attn doctor` shows what pyproject.toml asks for and offers: every package of every extra, and nothing else."""

import re
import sys
import tomllib
import types
from pathlib import Path

import pytest

from attn.cli.doctor import PARTS, REQUIRED, optional_parts
from attn.core.catalogue import registry
from attn.core.registry import Method, Need

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = {re.match(r"[\w.-]+", line)[0].lower() for line in PROJECT["dependencies"]}
EXTRAS = {
    (re.match(r"[\w.-]+", line)[0], extra)
    for extra, lines in PROJECT["optional-dependencies"].items()
    if extra != "dev"
    for line in lines
}


def rows():
    return [row for row in optional_parts() if row["package"] != "pillow"]  # parts of Pillow are no packages


def test_required_are_the_dependencies():
    assert {name.lower() for name in REQUIRED} == DEPENDENCIES


def test_every_package_of_every_extra_and_nothing_else():
    shown = {(row["package"], re.search(r"attn\[(\w+)\]", need_of(row).get)[1]) for row in rows()}
    assert shown == {(package, extra) for package, extra in EXTRAS if package not in DEPENDENCIES}
    assert len(shown) == len(rows())


def need_of(row):
    needs = [need for _, need in PARTS]
    for command in ("denoise", "segment", "bench", "retrieve", "train"):
        needs += [need for method in registry(command).values() for need in method.needs]
    return next(need for need in needs if need.package == row["package"])


def test_it_says_how_to_get_what_is_missing(monkeypatch):
    monkeypatch.setattr(Need, "missing", property(lambda self: True))
    for row in rows():
        assert row["status"] == "missing"
        assert row["get"].startswith(f"pip install 'attn[{need_of(row).extra}]'")


def test_a_torchvision_that_does_not_fit_is_told(monkeypatch):
    """As the package registry's is beside the CPU build of torch: it is there, and its import fails."""

    class Broken(types.ModuleType):
        def find_spec(self, name, *_):
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(Need, "missing", property(lambda self: self.module != "torchvision"))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken("broken"), *sys.meta_path])
    (row,) = [row for row in rows() if row["package"] == "torchvision"]
    assert row["status"] == "missing"
    assert "nms does not exist" in row["get"]
    assert "of the build of torch" in row["get"]


@pytest.mark.parametrize("command", ["denoise", "bench"])
def test_what_a_new_method_needs_is_shown(command):
    need = Need("no_such_module", "no-such")
    row = Method("toy", home="a:b", summary="a toy", paper="this test", year=2026, needs=(need,))
    with registry(command).extended(row):
        shown = {row["package"]: row for row in rows()}["no-such"]
    assert shown == {
        "part": f"attn {command}: toy", "package": "no-such", "status": "missing", "get": "pip install no-such",
    }  # fmt: skip
