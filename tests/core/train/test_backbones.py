"""`attn train biformer` and `attn train halonet` on a few pictures: equal ViTs, resuming, files, broken pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attn.core.bundles import Compute
from attn.core.errors import InputError, UsageError
from attn.core.fit import loop as trainer
from attn.core.nets.vit import VisionTransformer
from attn.core.train.backbones.looks import attended
from attn.core.train.backbones.network import BackboneShape, counted, equal_vit, read_backbone
from attn.core.train.backbones.options import BackbonePictures, BiFormerOptions, HaloNetOptions
from attn.core.train.backbones.run import train_backbone
from attn.core.train.vit import data

COMPUTE = Compute(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "COUNTS", {"train": 100, "val": 12, "test": 20})
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)


def tiny(kind: type[Any], folder: Path, **changes: Any) -> Any:
    pictures = BackbonePictures(batch=4)
    return kind(
        folder, pictures, layers=2, depths=(1, 1, 1, 1), steps=2, warmup=1, evaluate_every=1, compute=COMPUTE, **changes
    )  # fmt: skip


@pytest.mark.parametrize("kind", [BiFormerOptions, HaloNetOptions])
def test_recipe(tmp_path: Path, kind: type[Any]) -> None:
    options = tiny(kind, tmp_path / "run", seeds=2)
    report = train_backbone(options)
    rows = report.sections[0].rows()
    assert [row["model"] for row in rows] == [options.kind, "plain ViT, parameters", "plain ViT, multiply-adds"]
    assert rows[1]["parameters"] == pytest.approx(rows[0]["parameters"], rel=0.02)
    assert rows[2]["mega_multiply_adds"] == pytest.approx(rows[0]["mega_multiply_adds"], rel=0.05)
    assert all(row["accuracy_std"] >= 0 and row["ms_per_image"] > 0 for row in rows)
    assert (tmp_path / "run" / "attended.png").stat().st_size > 0
    assert "| model |" in (tmp_path / "run" / "model.md").read_text()
    again = read_backbone(tmp_path / "run" / "seed-78" / "model.safetensors")
    first = read_backbone(tmp_path / "run" / "model.safetensors")
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert all(torch.equal(value, best[name]) for name, value in first.network.state_dict().items())
    assert first.classes == again.classes
    assert not torch.equal(first.network.head.weight, again.network.head.weight)
    train_backbone(replace(options, steps=3))  # goes on
    assert len((tmp_path / "run" / "vit-cost" / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "shape", [BackboneShape("biformer", 64, 48, 16, (1, 1, 2, 1)), BackboneShape("halonet", 64, 5, 32, (2, 2, 3, 2))]
)
def test_plain_vits_are_equal_as_counted_on_the_networks(shape: BackboneShape) -> None:
    wanted = counted(shape.build(), 64)
    same_size = equal_vit(wanted.parameters, "parameters", 64, 8, 6, 4, shape.num_classes)
    same_cost = equal_vit(wanted.cost, "cost", 64, 8, 6, 4, shape.num_classes)
    assert counted(VisionTransformer(same_size), 64).parameters == pytest.approx(wanted.parameters, rel=0.02)
    assert counted(VisionTransformer(same_cost), 64).cost == pytest.approx(wanted.cost, rel=0.05)
    with pytest.raises(ValueError, match="no plain ViT of 6 blocks"):
        equal_vit(10, "parameters", 64, 8, 6, 4, 48)


def test_routed_regions_are_those_of_the_layer() -> None:
    network = BackboneShape("biformer", 64, 4, 16, (1, 1, 1, 1), n_win=4, topk=(1, 2, 16)).build().eval()
    found = dict(attended(network, torch.randn(2, 3, 64, 64)))
    assert list(found) == ["stage 1", "stage 2", "stage 3"]
    assert [len(found[stage][0][1]) for stage in found] == [1, 2, 16]
    assert found["stage 1"][0][0] == (0.5, 0.5, 0.75, 0.75)
    assert len(set(found["stage 3"][1][1])) == 16  # all of them, each once


def test_halo_of_a_block() -> None:
    network = BackboneShape("halonet", 64, 4, 16, (1, 1, 1, 1), block=4, halo=2).build().eval()
    asks, looks = dict(attended(network, torch.randn(1, 3, 64, 64)))["stage 1"][0]
    assert asks == (0.5, 0.5, 0.75, 0.75)  # of a map of 16 cells
    assert looks == [(6 / 16, 6 / 16, 14 / 16, 14 / 16)]


def write_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (70, 80, 3), np.uint8)).save(path)


def test_own_pictures_and_broken_ones(tmp_path: Path) -> None:
    for number in range(16):
        write_photo(tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    (tmp_path / "photos" / "cat" / "0.png").write_bytes(b"no picture")
    options = tiny(HaloNetOptions, tmp_path / "run")
    report = train_backbone(replace(options, pictures=BackbonePictures(data=str(tmp_path / "photos"), batch=4)))
    told = "\n".join(report.items[0].warnings)
    assert "1 of 16 pictures are left out" in told
    assert "0.png" in told
    assert read_backbone(tmp_path / "run" / "model.safetensors").classes == ("cat", "dog")


@pytest.mark.parametrize(("counts", "message"), [({"cat": 4}, "has 1 classes"), ({"cat": 3, "dog": 2}, "leaves 3 pic")])
def test_too_few(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    for name, count in counts.items():
        for number in range(count):
            write_photo(tmp_path / "photos" / name / f"{number}.png", number)
    options = tiny(BiFormerOptions, tmp_path / "run")
    with pytest.raises(InputError, match=message):
        train_backbone(replace(options, pictures=BackbonePictures(data=str(tmp_path / "photos"), batch=4)))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (BiFormerOptions, {"topk": (1, 2, 17)}, "from 1 to 16"),
        (BiFormerOptions, {"n_win": 3}, "multiple of 48"),
        (BiFormerOptions, {"width": 24}, "multiple of 16"),
        (HaloNetOptions, {"halo": 5}, "more than"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, kind: type[Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(kind, tmp_path, **changes)


def test_files_that_are_no_backbones(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\x10")
    with pytest.raises(UsageError):
        read_backbone(tmp_path / "m.safetensors")
