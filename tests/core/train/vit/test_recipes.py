"""`attn train as-vit` and `attn train sparsifiner` on a few drawn pictures: stages, resuming, tables, model files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attn.core.bundles import Compute
from attn.core.errors import InputError, UsageError
from attn.core.fit import loop as trainer
from attn.core.models.pictures import ColourPicture
from attn.core.nets.as_vit import AdaptiveViT
from attn.core.nets.sparsifiner_vit import SparsifinerConfig, SparsifinerViT
from attn.core.nets.vit import VisionTransformer, ViTShape
from attn.core.prune.api import prune
from attn.core.prune.methods.base import Keep
from attn.core.prune.vit.named import image_pruner_of
from attn.core.prune.vit.site import image_site
from attn.core.prune.vit.trained import load_image_model, read_trained
from attn.core.train.as_vit.options import AsViTOptions
from attn.core.train.as_vit.recipe import AdaptiveRecipe
from attn.core.train.as_vit.run import train_as_vit
from attn.core.train.sparsifiner.options import SparsifinerOptions
from attn.core.train.sparsifiner.recipe import predictor_recall
from attn.core.train.sparsifiner.run import train_sparsifiner
from attn.core.train.vit import data
from attn.core.train.vit.data import ClassBatches, drawn, read_pictures
from attn.core.train.vit.options import PlainOptions

TINY = PlainOptions(image_size=24, patch=3, width=16, layers=6, heads=2, plain_steps=4, batch=8)
COMPUTE = Compute(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "COUNTS", {"train": 40, "val": 12, "test": 20})
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)


def as_vit(folder: Path, **changes: Any) -> Any:
    options = AsViTOptions(folder, TINY, steps=4, warmup=1, evaluate_every=2, compute=COMPUTE)
    return train_as_vit(replace(options, **changes))


def pictures() -> list[ColourPicture]:
    generator = np.random.default_rng(0)
    return [ColourPicture(generator.random((3, 30, 40), np.float32), (30, 40)) for _ in range(3)]


def test_as_vit(tmp_path: Path) -> None:
    report = as_vit(tmp_path / "run")
    item = report.items[0]
    assert item.metrics["cost_share"] == pytest.approx(0.65, abs=0.1)  # of 20 pictures, hardly trained
    assert item.metrics["kept_std"] > 0
    table = next(section for section in report.sections)
    assert [row["model"] for row in table.rows()][:2] == ["plain ViT", "as-vit, trained"]
    assert len(table.rows()) == 6
    model = read_trained(tmp_path / "run" / "model.safetensors")
    assert model.kind == "as-vit"
    assert "red circle" in model.classes
    loaded = load_image_model(str(tmp_path / "run"))
    assert loaded.labels == model.classes
    plain = loaded.model(torch.zeros(1, 3, 24, 24)).logits
    with prune(loaded, "as-vit", 0.5) as trace:
        loaded.model(torch.zeros(1, 3, 24, 24))
    assert torch.equal(loaded.model(torch.zeros(1, 3, 24, 24)).logits, plain)
    assert list(trace.last.owners) == list(model.settings["positions"])
    done = image_pruner_of("as-vit", {}).run(loaded, pictures(), Keep(share=0.5))
    assert "trained with" in done.warnings[0]
    as_vit(tmp_path / "run", steps=6)  # both stages are read, two steps follow
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    assert len((tmp_path / "run" / "plain" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_step_next_to_a_threshold_does_not_undo_the_weights() -> None:
    """Its gradient is divided by tau; that of the thresholds is theirs alone."""
    shape = ViTShape(24, 3, 3, 48, 16, 6, 2)
    parts = drawn(data.COUNTS, 24, 0).parts
    batches = ClassBatches(parts["train"], 8, 0, "none", torch.device("cpu"))
    net = AdaptiveViT(shape, (3, 4))
    recipe = AdaptiveRecipe(
        net, VisionTransformer(shape), batches, parts["val"], budget=0.65, rate=1e-3, weight_decay=0.0
    )  # fmt: skip
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    recipe.optimizer.step()
    weights = [p.grad for name, p in net.named_parameters() if "thresholds" not in name and p.grad is not None]
    assert float(torch.cat([grad.flatten() for grad in weights]).norm()) == pytest.approx(1.0, rel=1e-3)
    assert all(float(threshold.grad) == 100 for threshold in net.thresholds)


def test_sparsifiner(tmp_path: Path) -> None:
    options = SparsifinerOptions(
        tmp_path, TINY, reconstruction_steps=4, steps=4, warmup=1, evaluate_every=2, compute=COMPUTE
    )
    report = train_sparsifiner(options)
    rows = report.sections[0].rows()
    assert [row["model"] for row in rows][:4] == [
        "plain ViT", "sparsifiner, attention", "sparsifiner, tokens", "sparsifiner, both",
    ]  # fmt: skip
    costs = [row["cost_share"] for row in rows]
    assert costs[2:4] == pytest.approx([costs[1]] * 2, rel=0.02)
    assert costs[3] > costs[4] > costs[5]
    metrics = report.items[0].metrics
    assert metrics["recall_random"] == 0.25
    assert 0 < metrics["recall_at_k"] <= 1
    loaded = load_image_model(str(tmp_path / "model.safetensors"))
    x = torch.rand(2, 3, 24, 24)
    plain = loaded.model(x).logits
    with prune(loaded, "sparsifiner", 1.0, part="tokens"):
        assert torch.equal(loaded.model(x).logits, plain)
    with prune(loaded, "sparsifiner", 0.5) as trace:
        loaded.model(x)
    assert torch.equal(loaded.model(x).logits, plain)
    now = trace.last
    assert float(now.retention(now.first)[0]) == pytest.approx(0.5, abs=0.01)
    done = image_pruner_of("sparsifiner", {}).run(loaded, pictures(), Keep(share=0.5))
    assert done.keep == pytest.approx(0.5, abs=0.01)
    assert all(result.multiply_adds < result.multiply_adds_before for result in done.results)


def test_sparsifiner_counts_and_shortens() -> None:
    torch.manual_seed(0)
    config = SparsifinerConfig(24, 3, 3, 5, 16, 6, 2, keep_ratio=0.3, token_keep={1: 0.6})
    model = SparsifinerViT(config).eval()
    site, x = image_site(model), torch.rand(2, 3, 24, 24)
    dense = 64 * 16 * 27 + 6 * (12 * 16**2 * 65 + 2 * 16 * 65**2)
    method = image_pruner_of("sparsifiner", {"part": "tokens"})
    with torch.no_grad(), method.counted(site) as trace:
        model(x)
    assert float(trace.last.multiply_adds[0]) == dense
    with torch.no_grad(), prune(model, "sparsifiner", 0.5, part="tokens", exact_code=True) as trace:
        short = model(x).logits
    for block in model.blocks:
        block.keep_ratio, block.token_keep = 1.0, None
    counts = [int(counts[0]) for counts in trace.last.going_on]
    for block, before, after in zip(model.blocks, [64, *counts], counts, strict=False):
        block.token_keep = (after - 0.5) / 64 if after < before else None
    with torch.no_grad():
        zeros = model(x).logits
    torch.testing.assert_close(short, zeros, atol=1e-5, rtol=0)


def test_recall_of_a_predictor_that_knows_nothing_is_that_of_chance() -> None:
    torch.manual_seed(0)
    model = SparsifinerViT(SparsifinerConfig(24, 3, 3, 48, 16, 2, 2))
    found = predictor_recall(model, drawn({"val": 12}, 24, 0).parts["val"], 0.25, torch.device("cpu"))
    assert found == pytest.approx(0.25, abs=0.1)


def test_drawn_pictures_are_those_of_the_seed_and_all_classes_are_there() -> None:
    parts = drawn({"train": 200, "val": 10}, 48, 3).parts
    again = drawn({"train": 200, "val": 10}, 48, 3).parts
    assert torch.equal(parts["train"].images, again["train"].images)
    assert not torch.equal(parts["train"].images[:10], parts["val"].images)
    assert len(parts["train"].images) == 200
    assert len(parts["train"].labels.unique()) > 40
    batches = ClassBatches(parts["train"], 8, 1, "mirror", torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(batches(5), batches(5), strict=True))


def write_photo(path: Path, seed: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8)).save(path)


def test_folders_of_classes(tmp_path: Path) -> None:
    for number in range(20):
        write_photo(tmp_path / "plain" / ("cat", "dog")[number % 2] / f"{number}.png", number)
        write_photo(tmp_path / "split" / ("train", "test")[number % 2] / ("cat", "dog")[number // 10] / "x.png", number)
    found = read_pictures(str(tmp_path / "plain"), 16, 0)
    assert found.classes == ("cat", "dog")
    assert {split: len(part) for split, part in found.parts.items()} == {"train": 16, "val": 2, "test": 2}
    assert "drawn for each" in found.notes[0]
    assert found.parts["train"].images.shape == (16, 3, 16, 16)
    split = read_pictures(str(tmp_path / "split"), 16, 0)
    assert {name: len(part) for name, part in split.parts.items()} == {"train": 1, "val": 1, "test": 2}


def test_tables_of_pictures(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_photo(tmp_path / "a.png", 0)
    content = (tmp_path / "a.png").read_bytes()
    rows = {"image": [{"bytes": content, "path": None}] * 20, "label": [i % 3 for i in range(20)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
    found = read_pictures(str(tmp_path / "t.parquet"), 16, 0)
    assert found.classes == ("000000", "000001", "000002")
    assert sum(len(part) for part in found.parts.values()) == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "has 0 classes"),
        (lambda folder: write_photo(folder / "cat" / "1.png", 0), "has 1 classes"),
    ],
)
def test_pictures_that_are_none(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        read_pictures(str(tmp_path / "data"), 16, 0)


def test_a_truncated_photo_is_named(tmp_path: Path) -> None:
    for number in range(4):
        write_photo(tmp_path / ("cat", "dog")[number % 2] / f"{number}.png", number)
    broken = tmp_path / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError, match=r"0\.png"):
        read_pictures(str(tmp_path), 16, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"budget": 0.2}, "0.2"), ({"warmup": 4}, "leave nothing"), ({"budget": 1.5}, "budget")],
)
def test_options_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        as_vit(tmp_path, **changes)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("wanted", ["nothing", "other", "cut"])
def test_files_that_are_no_models(tmp_path: Path, wanted: str) -> None:
    path = tmp_path / "model.safetensors"
    if wanted == "other":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(2)}, path)
    elif wanted == "cut":
        path.write_bytes(b"\x10")
    with pytest.raises(UsageError):
        load_image_model(str(path))
