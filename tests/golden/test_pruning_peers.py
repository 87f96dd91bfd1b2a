"""Published pruners against recorded results of their own programs: methods/pruning-peers.md, section 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attn.core.prune.methods.base import Keep, Schedule, largest
from attn.core.prune.methods.divprune import diverse
from attn.core.prune.methods.prumerge import PruMerge, merged_tokens
from attn.core.prune.methods.pyramiddrop import PyramidDrop
from attn.core.prune.methods.sparsevlm import clustered, clusters, rater_score, recycled
from attn.core.prune.methods.visionzip import contextual_tokens

TOLERANCE = {"atol": 1e-5, "rtol": 0}


def vectors(name: str) -> dict[str, Tensor]:
    with np.load(Path(__file__).parent / "vectors" / "pruning-peers" / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def test_fastv() -> None:
    v = vectors("fastv")
    visual = len(v["score"])
    torch.testing.assert_close(v["attn"][0, :, -1, :visual].mean(0), v["score"], **TOLERANCE)
    assert torch.equal(largest(v["score"], Keep(share=0.5).of(visual)), v["keep_half"].sort().values)


def test_pyramiddrop() -> None:
    half, third, other = vectors("pyramiddrop")["schedules"].tolist()
    official = Schedule.of((8, 16, 24), [PyramidDrop().ratios], 32, None)
    keep = Keep(share=official.mean(PyramidDrop().ratios))
    assert [576, *official.counts(keep, 576)] == half
    assert [other[0], *official.counts(keep, other[0])] == other
    smaller = (0.32, 0.16, 0.08)
    at = Schedule.of((8, 16, 24), [smaller], 32, (2, 10, 20))
    assert [576, *at.counts(Keep(share=at.mean(smaller)), 576)] == third


def test_sparsevlm() -> None:
    v = vectors("sparsevlm")
    score = rater_score(v["visual"][0], v["text"][0])
    torch.testing.assert_close(score, v["rater_score"][0], **TOLERANCE)
    raters = (score > score.mean()).nonzero().flatten()
    assert torch.equal(raters, v["raters"])

    count = len(v["relation"])
    mean = v["attn"][0].mean(0)
    torch.testing.assert_close(mean[count + raters, :count].mean(0), v["relation"], **TOLERANCE)
    keep = largest(v["relation"], count // 3)
    assert torch.equal(keep, v["keep"].sort().values)
    dropped = torch.ones(count, dtype=torch.bool)
    dropped[keep] = False
    rest = dropped.nonzero().flatten()
    assert torch.equal(rest, v["pruned"])
    again = rest[v["relation"][rest].topk(recycled(len(rest))).indices]
    assert torch.equal(again, v["recycle_idx"])
    assert clusters(len(rest)) == int(v["n_clusters"])
    centres, merged = clustered(v["recycle_tokens"][0], int(v["n_clusters"]))
    assert len(centres) == len(merged)
    torch.testing.assert_close(merged, v["merged"][0], atol=1e-4, rtol=0)


def test_visionzip() -> None:
    v = vectors("visionzip")
    score = v["attn"][0, :, 0].sum(0)
    score[0] = torch.inf  # the class token is kept whatever it looks at
    dominant = largest(score, int(v["dominant_minus_cls"]) + 1)
    assert torch.equal(dominant, v["dominant_idx"][0].sort().values)
    hidden = v["hidden"][0]
    targets, tokens = contextual_tokens(hidden, v["metric"][0], dominant, int(v["contextual"]))
    left = torch.ones(len(hidden), dtype=torch.bool)
    left[dominant] = False
    assert torch.equal(left.nonzero().flatten()[v["target_idx"]], targets)
    torch.testing.assert_close(torch.cat([hidden[dominant], tokens]), v["tokens"][0], **TOLERANCE)


def test_divprune() -> None:
    v = vectors("divprune")
    features = v["features"]
    order = diverse(features, round(float(v["ratio"]) * len(features)))
    assert torch.equal(order, v["order"])
    unit = torch.nn.functional.normalize(features[order], dim=1)
    distance = 1 - unit @ unit.mT
    assert float(distance[~torch.eye(len(order), dtype=torch.bool)].min()) == pytest.approx(
        float(v["min_distance"]), abs=1e-5
    )


@pytest.mark.parametrize(("plus", "name"), [(False, "tokens"), (True, "tokens_plus")])
def test_prumerge(plus: bool, name: str) -> None:
    v = vectors("prumerge")
    q, k, hidden = (v[part][0] for part in ("q", "k", "hidden"))
    weights = (q[0] @ k.mT * q.shape[1] ** -0.5).softmax(0)[1:]
    features, keys = hidden[1:], k[1:]
    kept = PruMerge(plus=plus, adaptive=True).kept(weights, len(weights) + 1)
    rest = weights.clone()
    rest[kept] = 0
    tokens = torch.cat([merged_tokens(features, keys, weights, kept), (rest @ features)[None]])
    torch.testing.assert_close(tokens, v[name][0], **TOLERANCE)
