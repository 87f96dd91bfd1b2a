"""CLIP and SigLIP folders against transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from encoder_folders import TEXTS, dual_folder, photos, write

from attn.core.errors import UsageError
from attn.core.retrieve.encoders.dual import DualEncoder
from attn.core.retrieve.encoders.load import load

KINDS = {"clip": ("CLIPModel", 10), "siglip": ("SiglipModel", 16)}


def features(out: Any) -> np.ndarray:
    found = getattr(out, "pooler_output", out).numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, DualEncoder, Any, Path]:
    folder = dual_folder(tmp_path / "model", request.param)
    encoder = load(str(folder))
    assert isinstance(encoder, DualEncoder)
    return request.param, encoder, getattr(transformers, KINDS[request.param][0]).from_pretrained(folder).eval(), folder


def test_texts(pair: tuple[str, DualEncoder, Any, Path]) -> None:
    kind, encoder, model, _ = pair
    found = encoder.encode_texts(TEXTS)
    options = {"padding": "max_length"} if kind == "siglip" else {}
    for text, vector in zip(TEXTS, found.vectors, strict=True):
        ids = encoder.tokeniser([text], truncation=True, max_length=16, return_tensors="pt", **options)["input_ids"]
        with torch.no_grad():
            assert np.abs(features(model.get_text_features(input_ids=ids))[0] - vector).max() < 1e-5
    assert found.truncated.tolist() == [len(text.split()) > 14 for text in TEXTS]
    assert found.vectors.shape == (6, KINDS[kind][1])


def test_images(pair: tuple[str, DualEncoder, Any, Path]) -> None:
    kind, encoder, model, _ = pair
    images = photos(35)  # more than a batch
    found = encoder.encode_images(images)
    assert found.vectors.shape == (35, KINDS[kind][1])
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    assert not found.truncated.any()
    with torch.no_grad():
        expected = features(model.get_image_features(pixel_values=encoder.prepare(images[34])[None]))
    assert np.abs(expected[0] - found.vectors[34]).max() < 1e-5
    assert encoder.encode_images([]).vectors.shape == (0, KINDS[kind][1])


def test_temperature_acts_on_both_towers(pair: tuple[str, DualEncoder, Any, Path]) -> None:
    _, encoder, _, folder = pair
    sharp: Any = load(str(folder), temperature=0.5)
    assert np.abs(sharp.encode_texts(TEXTS).vectors - encoder.encode_texts(TEXTS).vectors).max() > 1e-4
    assert np.abs(sharp.encode_images(photos()).vectors - encoder.encode_images(photos()).vectors).max() > 1e-4


def test_fingerprint(pair: tuple[str, DualEncoder, Any, Path]) -> None:
    kind, encoder, _, _ = pair
    mark = encoder.fingerprint
    assert (mark.dim, mark.image_size, mark.max_tokens) == (KINDS[kind][1], 32, 16)
    assert encoder.modalities == {"text", "image"}


def test_siglip_takes_its_own_length_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="padded to 16 tokens"):
        load(str(dual_folder(tmp_path, "siglip")), max_tokens=8)


def test_clip_takes_fewer_tokens(tmp_path: Path) -> None:
    encoder = load(str(dual_folder(tmp_path)), max_tokens=8)
    assert encoder.encode_texts(TEXTS).tokens.max() == 8
    with pytest.raises(UsageError, match="max_tokens 17"):
        load(str(tmp_path), max_tokens=17)


def test_preprocessor_of_another_size(tmp_path: Path) -> None:
    folder = dual_folder(tmp_path, "siglip")
    write(
        folder / "preprocessor_config.json",
        {"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "size": {"height": 48, "width": 48}},
    )
    with pytest.raises(UsageError, match="tower of 32"):
        load(str(folder))


def test_preprocessor_missing(tmp_path: Path) -> None:
    folder = dual_folder(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"preprocessor_config\.json is missing"):
        load(str(folder))


def test_folder_of_sentence_transformers_that_holds_clip(tmp_path: Path) -> None:
    dual_folder(tmp_path / "0_CLIPModel")
    write(
        tmp_path / "modules.json",
        [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}],
    )
    assert load(str(tmp_path)).modalities == {"text", "image"}
