"""The recipe of the classifiers that ship: a killed run goes on, its folder loads, labels are where the object is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attn.core.bundles import Compute
from attn.core.fit import loop as trainer
from attn.core.models.load import load_model
from attn.core.options import OptionError
from attn.core.prune.shapes.drawing import RGB
from attn.core.prune.shapes.labelled import CLASSES, DISTRACTED, WINDOW, labelled_scenes, labelled_set
from attn.core.prune.shapes.words import COLOURS
from attn.core.train.shapes_classifier import recipe
from attn.core.train.shapes_classifier.options import ShapesClassifierOptions
from attn.core.train.shapes_classifier.recipe import shown_by_patches
from attn.core.train.shapes_classifier.run import train_shapes_classifier


def options(folder: Path, net: str, **changes: Any) -> ShapesClassifierOptions:
    compute = Compute(device="cpu", threads=1)
    small = ShapesClassifierOptions(
        folder, net="vit" if net == "vit" else "cnn", width=16, layers=2, steps=4, warmup=1, batch=4, judged=8,
        evaluate_every=2, compute=compute,
    )  # fmt: skip
    return replace(small, **changes)


@pytest.mark.parametrize("net", ["vit", "cnn"])
def test_a_run_that_was_stopped_goes_on(tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)
    whole = train_shapes_classifier(options(tmp_path / "whole", net)).items[0]
    assert whole.status == "ok"
    assert 0 <= whole.metrics["accuracy"] <= 1
    draw, steps = recipe.labelled_scenes, iter(range(10))

    def until(*given: Any, **scenes: Any) -> Any:
        if next(steps) == 3:
            raise KeyboardInterrupt
        return draw(*given, **scenes)

    monkeypatch.setattr(recipe, "labelled_scenes", until)
    assert train_shapes_classifier(options(tmp_path / "stopped", net)).left
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    monkeypatch.setattr(recipe, "labelled_scenes", draw)
    train_shapes_classifier(options(tmp_path / "stopped", net))
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    loaded = load_model(str(tmp_path / "whole"), "classifier")
    assert loaded.labels == CLASSES
    assert loaded.processor.images is not None
    assert loaded.processor.images.size == (WINDOW, WINDOW)
    assert "Accuracy" in (tmp_path / "whole" / "model.md").read_text()


def test_the_object_is_where_its_box_is() -> None:
    scenes = labelled_set(60)
    for picture, label, (x0, y0, x1, y1) in zip(scenes.pictures, scenes.label, scenes.box, strict=True):
        inside = picture[y0:y1, x0:x1].reshape(-1, 3).astype(float)
        near = np.abs(inside - RGB[label % len(COLOURS)]).max(1) < 30
        assert x1 - x0 == y1 - y0 == 18
        assert near.mean() > 0.15  # a star covers least of its box
    assert len(set(scenes.label.tolist())) > 20
    again = labelled_set(60)
    assert np.array_equal(scenes.pictures, again.pictures)
    assert not np.array_equal(scenes.pictures, labelled_set(60, seed=2).pictures)


def test_what_patches_show() -> None:
    scenes = labelled_scenes(np.random.default_rng(0), 30, **DISTRACTED)
    shown = shown_by_patches(scenes, 8).view(30, 8, 8)
    for label, (x0, y0, x1, y1), grid in zip(scenes.label, scenes.box, shown, strict=True):
        middle = grid[(y0 + y1) // 2 // 8, (x0 + x1) // 2 // 8]
        assert middle == label + 1
        outside = torch.ones(8, 8, dtype=torch.bool)
        outside[y0 // 8 : (y1 - 1) // 8 + 1, x0 // 8 : (x1 - 1) // 8 + 1] = False
        assert (grid[outside] == 0).all()
        assert set(grid.unique().tolist()) <= {-1, 0, int(label) + 1}


def test_options_that_fit_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="multiple of 8"):
        options(tmp_path, "vit", width=12)
    with pytest.raises(OptionError, match="leave nothing"):
        options(tmp_path, "vit", warmup=4)
