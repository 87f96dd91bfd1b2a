"""Text encoders in folders: equal to sentence-transformers, and clear where a folder cannot be used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_folders import TEXTS, sentence_folder, text_folder, write

from attn.core.errors import UsageError
from attn.core.retrieve.encoders.load import load
from attn.core.retrieve.encoders.text import TextEncoder, pool

LAYOUTS: dict[str, dict[str, Any]] = {
    "mean": {},
    "cls": dict(pooling={"pooling_mode_cls_token": True}),
    "max": dict(pooling={"pooling_mode_max_tokens": True}),
    "new form": dict(pooling={"pooling_mode": "weightedmean"}),
    "two poolings, dense": dict(
        pooling={"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        dense="torch.nn.modules.activation.Tanh",
    ),
    "distilbert, prompts": dict(kind="distilbert", prompts={"query": "photo of ", "passage": "the "}),
    "roberta, no length": dict(kind="roberta", max_seq_length=None, normalise=False),
}  # fmt: skip


def text_encoder(name: Path | str, **options: Any) -> TextEncoder:
    encoder = load(str(name), **options)
    assert isinstance(encoder, TextEncoder)
    return encoder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_sentence_transformers(layout: str, tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    folder = sentence_folder(tmp_path / "model", **LAYOUTS[layout])
    theirs = package.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    if theirs.max_seq_length == 33:  # it forgets that roberta's positions start at 2, and fails on longer texts
        theirs.max_seq_length = 32
    ours = text_encoder(folder)
    for side, prompt in (("document", "passage"), ("query", "query")):
        # by name: encode_document documents that it takes "passage", but never does (it always has an empty "document")
        expected = theirs.encode(TEXTS, prompt=theirs.prompts.get(prompt), normalize_embeddings=True)
        found = ours.encode_texts(TEXTS, side=side)  # type: ignore[arg-type]
        assert np.abs(found.vectors - expected).max() < 1e-5
    assert ours.fingerprint.max_tokens == theirs.max_seq_length


@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
class TestPlain:
    def test_rows(self, kind: str, tmp_path: Path) -> None:
        encoder = text_encoder(text_folder(tmp_path, kind))
        assert encoder.fingerprint.pooling == ("lasttoken" if kind == "llama" else "mean")
        found = encoder.encode_texts(TEXTS)
        assert found.vectors.shape == (6, 16)
        assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
        for text, vector in zip(TEXTS, found.vectors, strict=True):  # no neighbour, order or padding shows
            assert np.abs(encoder.encode_texts([text]).vectors[0] - vector).max() < 2e-6

    def test_temperature(self, kind: str, tmp_path: Path) -> None:
        folder = text_folder(tmp_path, kind)
        plain, sharp = text_encoder(folder), text_encoder(folder, temperature=0.5)
        before = plain.encode_texts(TEXTS).vectors
        half = sharp.encode_texts(TEXTS).vectors
        assert np.abs(half - before).max() > 1e-4
        assert np.array_equal(plain.at(0.5).encode_texts(TEXTS).vectors, half)
        assert np.array_equal(plain.encode_texts(TEXTS).vectors, before)
        assert plain.fingerprint.difference(sharp.fingerprint) == "temperature 1.0 / 0.5"


def test_pooling_leaves_padding_out() -> None:
    hidden = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [90.0, 90.0]]])
    mask = torch.tensor([[1, 1, 0]])
    expected = {
        "mean": [2, -3], "cls": [1, -2], "max": [3, -2], "lasttoken": [3, -4],
        "mean_sqrt_len_tokens": [4 / 2**0.5, -6 / 2**0.5], "weightedmean": [7 / 3, -10 / 3],
    }  # fmt: skip
    for name, values in expected.items():
        assert torch.allclose(pool(hidden, mask, name), torch.tensor([values], dtype=torch.float32))
    assert torch.allclose(pool(hidden, mask, "cls+max"), torch.tensor([[1.0, -2, 3, -2]]))
    with pytest.raises(ValueError, match="no pooling named 'median'"):
        pool(hidden, mask, "median")


def test_truncation_is_counted(tmp_path: Path) -> None:
    encoder = text_encoder(sentence_folder(tmp_path), max_tokens=8)
    found = encoder.encode_texts(TEXTS)
    assert found.truncated.tolist() == [True, False, False, True, False, True]
    assert found.tokens.tolist() == [8, 4, 2, 8, 3, 8]
    assert encoder.cut(4).encode_texts(TEXTS).tokens.max() == 4


def test_no_texts(tmp_path: Path) -> None:
    found = text_encoder(text_folder(tmp_path)).encode_texts([])
    assert found.vectors.shape == (0, 16)
    assert found.tokens.shape == found.truncated.shape == (0,)


def test_images_are_refused(tmp_path: Path) -> None:
    encoder = text_encoder(text_folder(tmp_path))
    assert encoder.modalities == {"text"}
    with pytest.raises(UsageError, match="encodes texts only"):
        encoder.encode_images([np.zeros((3, 4, 4), np.float32)])


def test_more_tokens_than_trained_on(tmp_path: Path) -> None:
    sentence_folder(tmp_path)  # trained on 16, 32 positions
    assert "was made for 16 tokens" in text_encoder(tmp_path, max_tokens=32).warnings[0]
    assert text_encoder(tmp_path, max_tokens=16).warnings == ()
    for wrong in (33, 2):
        with pytest.raises(UsageError, match=f"max_tokens {wrong}: .* takes 3 to 32 tokens"):
            load(str(tmp_path), max_tokens=wrong)


def test_roberta_positions_start_behind_the_padding(tmp_path: Path) -> None:
    encoder = text_encoder(text_folder(tmp_path, "roberta"))
    assert encoder.fingerprint.max_tokens == 32
    assert encoder.encode_texts(["cat " * 50]).tokens.tolist() == [32]


def test_bfloat16_is_near(tmp_path: Path) -> None:
    folder = text_folder(tmp_path)
    exact = text_encoder(folder).encode_texts(TEXTS).vectors
    found = text_encoder(folder, dtype="bfloat16").encode_texts(TEXTS).vectors
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.1


class TestFingerprint:
    def test_hash_is_of_the_weights(self, tmp_path: Path) -> None:
        folder = text_folder(tmp_path)
        expected = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert text_encoder(folder).fingerprint.sha256 == expected

    def test_other_weights_in_the_same_place(self, tmp_path: Path) -> None:
        first = text_encoder(text_folder(tmp_path)).fingerprint
        second = text_encoder(text_folder(tmp_path, seed=1)).fingerprint
        assert "weights" in first.difference(second)

    def test_dense_layers_count(self, tmp_path: Path) -> None:
        plain = text_encoder(sentence_folder(tmp_path / "plain")).fingerprint
        dense = text_encoder(sentence_folder(tmp_path / "dense", dense="torch.nn.Identity")).fingerprint
        assert plain.sha256 != dense.sha256
        assert dense.dim == 12


class TestUnusable:
    def test_missing_weights(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        folder = text_folder(tmp_path)
        state = load_file(folder / "model.safetensors")
        del state["encoder.layer.1.output.dense.weight"]
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UsageError, match=r"lacks 1 weights of BertModel: encoder\.layer\.1\.output\.dense\.weight"):
            load(str(folder))

    def test_damaged_weights(self, tmp_path: Path) -> None:
        folder = text_folder(tmp_path)
        (folder / "model.safetensors").write_bytes(b"nothing")
        with pytest.raises(UsageError, match="cannot be loaded"):
            load(str(folder))

    def test_no_weights(self, tmp_path: Path) -> None:
        folder = text_folder(tmp_path)
        (folder / "model.safetensors").unlink()
        with pytest.raises(UsageError, match=r"cannot be loaded|holds no weights"):
            load(str(folder))

    def test_module_of_another_kind(self, tmp_path: Path) -> None:
        folder = sentence_folder(tmp_path)
        modules = json.loads((folder / "modules.json").read_text())
        modules[1]["type"] = "sentence_transformers.models.LSTM"
        write(folder / "modules.json", modules)
        with pytest.raises(UsageError, match="chain of Transformer, LSTM, Normalize"):
            load(str(folder))

    def test_unknown_activation(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="activation Softplus"):
            load(str(sentence_folder(tmp_path, dense="torch.nn.Softplus")))

    def test_dense_that_does_not_fit(self, tmp_path: Path) -> None:
        folder = sentence_folder(tmp_path, dense="torch.nn.Tanh")
        write(folder / "2_Dense" / "config.json", {"in_features": 16, "out_features": 13, "bias": True})
        with pytest.raises(UsageError, match="does not hold the layer"):
            load(str(folder))

    def test_prompts_outside_the_pooling(self, tmp_path: Path) -> None:
        folder = sentence_folder(tmp_path, {"pooling_mode_mean_tokens": True, "include_prompt": False})
        with pytest.raises(UsageError, match="leaves its prompts out"):
            load(str(folder))

    @pytest.mark.parametrize("name", ["1_Pooling/config.json", "config.json", "tokenizer.json"])
    def test_missing_file(self, name: str, tmp_path: Path) -> None:
        folder = sentence_folder(tmp_path)
        (folder / name).unlink()
        if name == "tokenizer.json":
            (folder / "tokenizer_config.json").unlink()
        with pytest.raises(UsageError, match="model"):
            load(str(folder))

    def test_unknown_pooling(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"no pooling named 'men'\. Did you mean mean"):
            load(str(text_folder(tmp_path)), pooling="men")

    def test_nan(self, tmp_path: Path) -> None:
        encoder = text_encoder(text_folder(tmp_path))
        next(encoder.model.parameters()).data.fill_(float("nan"))
        with pytest.raises(UsageError, match="gives NaN"):
            encoder.encode_texts(TEXTS)
