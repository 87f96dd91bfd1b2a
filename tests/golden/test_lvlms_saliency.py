"""Saliency, SGRS and LocoRE against autograd on whole maps and NumPy oracles: methods/lvlms-saliency.md, section 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from attn.core.probe.saliency.locore import Locore
from attn.core.probe.saliency.matrices import matrix_normalised, row_normalised, saliency, score
from attn.core.probe.saliency.one_row import NextToken, OneRow
from attn.core.probe.saliency.sgrs import Sgrs, pick
from attn.core.probe.saliency.whole import WholePass

VECTORS = Path(__file__).parent / "vectors" / "lvlms-saliency"
M, S, P, R, L = (
    dict(np.load(VECTORS / f"{name}.npz")) for name in ("model", "saliency", "profile", "sgrs", "locore")
)  # fmt: skip
TARGET = tuple(S["target_layers"].tolist())
START = int(S["sys_len"] + S["img_len"])
ROW = int(S["query_row"])


def model(dtype: torch.dtype = torch.float64, kernel: str = "sdpa") -> hf.LlamaForCausalLM:
    config = hf.LlamaConfig(
        vocab_size=int(M["vocab"]), hidden_size=int(M["hidden"]), intermediate_size=2 * int(M["hidden"]),
        num_hidden_layers=int(M["layers"]), num_attention_heads=int(M["heads"]), rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )  # fmt: skip
    made = hf.LlamaForCausalLM(config).to(dtype).eval()
    state = {name.removeprefix("p."): torch.from_numpy(value).to(dtype) for name, value in M.items() if "p." in name}
    made.load_state_dict(state)
    made.set_attn_implementation(kernel)
    return made


def close(found: object, wanted: object, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=tolerance, atol=tolerance)


def read(ids: np.ndarray, dtype: torch.dtype = torch.float64) -> NextToken:
    made = model(dtype)
    reader = OneRow(made, made)
    return reader.step(reader.start({"input_ids": torch.from_numpy(ids)}))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_the_last_row_of_one_token(dtype: torch.dtype, tolerance: float) -> None:
    """The row that predicts the candidate, of the pass of that one token over a cache."""
    found = read(S["input_ids"], dtype)
    candidate = torch.tensor([int(S["candidate"])])
    close(-found.log_probabilities[candidate], S["loss"], tolerance)
    rows = found.rows(candidate, (0, 1, 2, 3))[0]
    close(rows, S["S"].mean(1)[:, ROW, :-1], tolerance)
    close(row_normalised(rows), S["S_rownorm"][:, ROW, :-1], tolerance)
    close(score(row_normalised(found.rows(candidate, TARGET)), START), S["score_rownorm"], tolerance)
    signed = found.rows(candidate, (0, 1, 2, 3), signed=True)[0]
    close(signed, -(S["attn"] * S["grad"]).mean(1)[:, ROW, :-1], tolerance)


def whole() -> WholePass:
    ids = np.append(S["input_ids"], [[S["candidate"]]], 1)
    made = model()
    return WholePass(made, made, {"input_ids": torch.from_numpy(ids)}, (0, 1, 2, 3))


def test_whole_maps_layer_by_layer() -> None:
    """All rows, in tiles; and the Frobenius norms, of which the paper's normalisation is made."""
    found = whole()
    maps = []
    for layer in range(4):
        tiles = list(found.tiles(ROW, int(S["candidate"]), layer, rows=4))
        attention, gradient = (torch.cat(parts, 1) for parts in zip(*tiles, strict=True))
        close(attention, S["attn"][layer], 1e-6)
        close(gradient, S["grad"][layer], 1e-6)
        close(saliency(attention, gradient), S["S"][layer], 1e-6)
        maps.append(saliency(attention, gradient).mean(0))
    values = torch.stack(maps)
    close(row_normalised(values), S["S_rownorm"], 1e-6)
    norms = found.frobenius(ROW, int(S["candidate"]))
    close(matrix_normalised(values, norms[:, None, None]), S["S_fro"], 1e-6)
    fro = matrix_normalised(values[:, ROW, : ROW + 1], norms[:, None])
    close(score(fro[list(TARGET)], START), S["score_fro"], 1e-6)


def test_the_released_score_is_zero() -> None:
    """Its row is the candidate's own, which the loss of the row before does not reach."""
    last = [g[:, -1] for layer in range(4) for _, g in [list(whole().tiles(ROW, int(S["candidate"]), layer))[-1]]]
    assert all(float(g.abs().max()) == float(S["score_official_code"]) == 0.0 for g in last)


def test_profile_along_a_text() -> None:
    start, image = int(P["sys_len"] + P["img_len"]), int(P["sys_len"])
    ids = P["input_ids"]
    made = model()
    reader = OneRow(made, made)
    first = int(P["positions"][0])
    token = reader.start({"input_ids": torch.from_numpy(ids[:, :first])})
    rows: list[list[Tensor]] = []
    for at in P["positions"].tolist():
        (row,) = row_normalised(reader.step(token).rows(torch.tensor([ids[0, at]]), tuple(P["target_layers"].tolist())))
        rows.append([score(row, start), row[:, :image].mean(), row[:, image:start].mean()])
        token = torch.tensor([ids[0, at]])
    close(rows, P["out_sys_img"], 1e-6)


def test_rejection_sampling() -> None:
    settings = Sgrs(R["probs"].shape[1], int(R["max_resample"]), float(R["alpha"]), int(R["window"]))
    accepted: list[float] = []
    for step, (probabilities, scores) in enumerate(zip(R["probs"], R["saliency"], strict=True)):
        found = pick(probabilities, lambda index, scores=scores: scores[index], R["uniforms"][step], accepted, settings)
        accepted.append(found.score)
        assert found.index == R["chosen"][step]
        assert (found.tries, found.fallback) == (R["tries"][step], R["fallback"][step])
        close(found.threshold, R["tau"][step], 1e-6)
    close(accepted, R["accepted"], 1e-6)


@pytest.mark.parametrize("beta", [0, 1])
def test_gain_on_the_tokens_just_before(beta: int) -> None:
    scores, values = (torch.from_numpy(L[name]) for name in ("scores", "values"))
    start = int(L["sys_len"] + L["img_len"])
    gained = {}
    for mode, name in (("renorm", "post_renorm"), ("post", "post"), ("pre", "pre_mul")):
        settings = Locore(float(L[f"beta{beta}"]), int(L["window"]), mode)  # type: ignore[arg-type]
        gain = settings.gain(int(L["position"]), start)
        close(gain, L[f"gain{beta}"], 1e-6)
        gained[name] = settings.attention(scores, gain)
        close(gained[name], L[f"attn_{name}{beta}"], 1e-6)
    for name in ("post", "post_renorm"):
        close(gained[name] @ values, L[f"out_{name}{beta}"], 1e-6)
