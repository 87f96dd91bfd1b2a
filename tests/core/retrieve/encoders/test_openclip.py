"""Folders of open_clip, where the package can be imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_folders import photos, write
from open_clip_package import open_clip

from attn.core.errors import UsageError
from attn.core.retrieve.encoders.load import load

CONFIG = {
    "model_cfg": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest",
    },
}  # fmt: skip
TEXTS = ["a cat", "", "a photo of a dog " * 9]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    package = open_clip()
    write(tmp_path / "open_clip_config.json", CONFIG)
    torch.manual_seed(0)
    model = package.create_model(f"local-dir:{tmp_path}")
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    return tmp_path


@pytest.mark.packaged("open_clip")
def test_equals_open_clip(folder: Path) -> None:
    package = open_clip()
    model, _, transform = package.create_model_and_transforms(f"local-dir:{folder}")
    encoder: Any = load(str(folder))
    with torch.no_grad():
        texts = model.eval().encode_text(package.get_tokenizer(f"local-dir:{folder}")(TEXTS), normalize=True).numpy()
        pixels = encoder.prepare(photos()[0])
        images = model.encode_image(pixels[None], normalize=True).numpy()
    found = encoder.encode_texts(TEXTS)
    assert np.abs(found.vectors - texts).max() < 1e-5
    assert found.truncated.tolist() == [False, False, True]
    assert found.tokens.tolist() == [4, 2, 16]
    assert np.abs(encoder.encode_images(photos()).vectors[0] - images[0]).max() < 1e-5
    from PIL import Image

    calm = photos()[0] / 2 + 0.25  # Pillow clips what bicubic weights overshoot after each axis, torch at the end
    picture = Image.fromarray((calm.transpose(1, 2, 0) * 255).round().astype(np.uint8))
    assert (transform(picture) - encoder.prepare(calm)).abs().max() < 0.02  # of a range of 2; Pillow rounds


@pytest.mark.packaged("open_clip")
def test_temperature_and_length(folder: Path) -> None:
    plain, sharp = load(str(folder)), load(str(folder), temperature=0.5)
    assert np.abs(plain.encode_texts(TEXTS).vectors - sharp.encode_texts(TEXTS).vectors).max() > 1e-5
    assert np.abs(plain.encode_images(photos()).vectors - sharp.encode_images(photos()).vectors).max() > 1e-5
    with pytest.raises(UsageError, match="texts of 16 tokens"):
        load(str(folder), max_tokens=8)


@pytest.mark.packaged("open_clip")
def test_no_weights(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UsageError, match="holds no weights"):
        load(str(folder))


def test_package_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "open_clip_config.json", CONFIG)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UsageError, match="pip install open_clip_torch"):
        load(str(tmp_path))
