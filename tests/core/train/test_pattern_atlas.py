"""The recipe of the autoencoder of attention patterns: less is lost, the same again, and the probe takes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import photo, vision_folder

from attn.core.bundles import Compute
from attn.core.errors import UsageError
from attn.core.nets.pattern_autoencoder import PatternAutoencoder, read_atlas, write_atlas
from attn.core.probe.inputs import DrawnInputs
from attn.core.probe.vit.look import loaded_model, site_of
from attn.core.probe.vit.options import VitOptions
from attn.core.probe.vit.run import run
from attn.core.train.pattern_atlas.options import PatternAtlasOptions
from attn.core.train.pattern_atlas.run import train_pattern_atlas


@pytest.fixture
def options(tmp_path: Path) -> PatternAtlasOptions:
    model = vision_folder(tmp_path / "model")
    for number in range(12):
        photo(tmp_path / f"in/{number}.png", seed=number % 3)  # so that what is held out resembles the rest
    return PatternAtlasOptions(
        tmp_path / "atlas", str(tmp_path / "in"), str(model), epochs=60, batch=16, compute=Compute("cpu", 3, 1)
    )


def test_less_is_lost_and_the_probe_takes_it(options: PatternAtlasOptions, tmp_path: Path) -> None:
    report = train_pattern_atlas(options)
    item = report.items[0]
    assert item.status == "ok"
    assert item.metrics["error"] < 0.5 * item.metrics["error_before"]
    assert "on a tenth" in (options.output / "model.md").read_text()
    train_pattern_atlas(replace(options, output=tmp_path / "again"))
    one, two = (read_atlas(folder / "model.safetensors") for folder in (options.output, tmp_path / "again"))
    assert all(torch.equal(x, y) for x, y in zip(one.parameters(), two.parameters(), strict=True))
    loaded_model.cache_clear()
    site_of.cache_clear()
    settings: dict[str, Any] = {"model": options.model, "device": "cpu", "trust": False, "points": 0, "clusters": 2}
    inputs, atlas = (
        DrawnInputs((str(tmp_path / "in/0.png"),), str(tmp_path / "out")),
        options.output / "model.safetensors",
    )
    seen = run(VitOptions(inputs, atlas=atlas, **settings))
    title = next(section.heading for section in seen.sections if section.name == "clusters")
    assert title == "Patterns of attention, grouped by the autoencoder"
    wide = tmp_path / "wide.safetensors"
    write_atlas(PatternAutoencoder(100), wide, {})
    with pytest.raises(UsageError, match="codes patterns of 100 numbers"):
        run(VitOptions(inputs, atlas=wide, **settings))


def test_files_that_are_no_atlas_and_too_few_patterns(options: PatternAtlasOptions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="20 at least"):
        train_pattern_atlas(replace(options, data=str(tmp_path / "in/0.png")))
    assert PatternAutoencoder(64, 3).encode(torch.zeros(2, 64)).shape == (2, 3)
    np.savez(tmp_path / "none.npz", x=np.zeros(3))
    with pytest.raises(UsageError):
        read_atlas(tmp_path / "none.npz")
