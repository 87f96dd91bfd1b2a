"""`attn probe` as a user runs it."""

import json
import sys

from small_models import photo, vision_folder


def test_command(cli, tmp_path):
    model = vision_folder(tmp_path / "model")
    photo(tmp_path / "a b.png")
    ran = cli("probe", "vit", "a b.png", "example:ct", "--model", str(model), "--json", "--report", "r.html")
    assert ran.code == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert [item["status"] for item in report["items"]] == ["ok", "ok"]
    assert report["command"] == "probe"
    assert "HU" in report["items"][1]["warnings"][0]
    assert {"a b.vit.png", "CT_small.vit.png", "CT_small.vit.npz"} <= {p.name for p in tmp_path.iterdir()}
    assert (tmp_path / "r.html").read_text().count("data:image/png") == 3
    assert cli("probe", "vit", "missing.png", "--model", str(model)).code == 1
    assert cli("probe", "vit", "--model", str(model)).code == 2
    assert cli("probe", "vti").code == 2
    named = cli("probe", "vit", "a b.png", "-o", "one.png", "--model", str(model))
    assert (named.code, (tmp_path / "one.npz").exists()) == (0, True)
    listed = cli("probe", "vit", "-", "-o", "out", "--model", str(model), stdin="a b.png\n")
    assert (listed.code, (tmp_path / "out/a b.vit.png").exists()) == (0, True)


KIND = '''
"""Counts bytes."""

from dataclasses import dataclass
from typing import Annotated

from attn.core.bundles import Inputs
from attn.core.command import Verb
from attn.core.options import Option, check


@dataclass(frozen=True, slots=True)
class ByteOptions:
    inputs: Inputs
    most: Annotated[int, Option("Files with more fail.", metavar="N", least=1)] = 1000

    def __post_init__(self):
        check(self)


KIND = Verb(options=ByteOptions, run="toy_kind:run", description="Count the bytes of files.", columns=("bytes",))


def run(options, *, watcher=None, arguments=None):
    import time
    from pathlib import Path

    from attn.core.batch.run import BatchOutcome
    from attn.core.report.model import Item

    counts = {name: len(Path(name).read_bytes()) for name in options.inputs.inputs}
    items = tuple(
        Item(name, None, "ok" if count <= options.most else "failed", 0.0, metrics={"bytes": count})
        for name, count in counts.items()
    )
    return BatchOutcome(items).report("probe", arguments or {}, "cpu", time.perf_counter())
'''


def test_a_kind_is_a_module_and_a_registry_line(cli, tmp_path, monkeypatch):
    """Nothing else knows of it, and it has a command, help, a list and a man page."""
    from attn.cli.man import write_man_pages
    from attn.core.catalogue import registry
    from attn.core.registry import Method

    (tmp_path / "toy_kind.py").write_text(KIND)
    (tmp_path / "a.txt").write_text("four")
    monkeypatch.syspath_prepend(tmp_path)
    with registry("probe").extended(Method("bytes", home="toy_kind:KIND", summary="bytes", paper="none", year=2026)):
        ran = cli("probe", "bytes", "a.txt", "--json")
        assert (ran.code, ran.report["items"][0]["metrics"]) == (0, {"bytes": 4})
        assert cli("probe", "bytes", "a.txt", "--most", "3").code == 1
        refused = cli("probe", "bytes", "a.txt", "--most", "0")
        assert (refused.code, "--most" in refused.stderr) == (2, True)
        assert "Files with more fail." in cli("probe", "bytes", "--help").stdout
        assert "bytes" in {row["method"] for row in json.loads(cli("probe", "--list", "--json").stdout)}
        assert "attn-probe-bytes.1" in {path.name for path in write_man_pages(tmp_path / "man")}
    assert cli("probe", "bytes", "a.txt").code == 2
    sys.modules.pop("toy_kind", None)


def test_classify(cli, tmp_path):
    model = vision_folder(tmp_path / "model")
    few = ["--epochs", "3", "--warmup", "1", "--seeds", "2", "--queries", "4", "--poolings", "knn,ep", "--maps", "1"]
    ran = cli("probe", "classify", "shapesx60", "--model", str(model), *few, "--json", "--report", "r.html")
    assert ran.code == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert [row["probe"] for row in report["summary"]["ladder"]] == ["knn", "ep"]
    assert len(report["summary"]["trust"]) == 4
    assert (tmp_path / "shapesx60.classify/heads/ep.safetensors").exists()
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/png") == 2
    again = cli("probe", "classify", "shapesx60", "--model", str(model), *few)
    assert (again.code, "skipped" in again.stdout) == (0, True)
    wrong = cli("probe", "classify", "shapesx60", "--model", str(model), "--queries", "5", "--overwrite")
    assert (wrong.code, "--queries: 5 queries do not divide 16 channels" in wrong.stderr) == (2, True)
    redrawn = cli("probe", "redraw", "shapesx60.classify/shapesx60.queries.json", "-o", "again.png")
    assert redrawn.code == 0, redrawn.stderr
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "shapesx60.classify/shapesx60.queries.png").read_bytes()
