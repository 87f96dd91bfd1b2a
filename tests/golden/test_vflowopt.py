"""VFlowOpt against a float64 oracle of its equations: methods/vflowopt.md, section 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from attn.core.prune.vflowopt.budget import mean_retention, third_stage
from attn.core.prune.vflowopt.importance import grey_of_patches, importance, patch_entropy, patches_of
from attn.core.prune.vflowopt.recycle import Recycled, grid_cells, most_important, recycle

TOLERANCE = 1e-5

with np.load(Path(__file__).parent / "vectors" / "vflowopt" / "vflowopt.npz") as file:
    V = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
T, ALPHA, R1, SIDE, R2, R3 = V["hyper"].tolist()
COUNT = V["attn"].shape[1]


def receive(rows: torch.Tensor | None) -> torch.Tensor:
    """Of a single view whose cells are patches."""
    attention = V["attn"].mean(0)
    return (attention if rows is None else attention[rows[:, 0]]).mean(0)[:, None]


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one.double(), other.double(), atol=TOLERANCE, rtol=TOLERANCE)


def test_entropy() -> None:
    patches = patches_of(V["image"].permute(2, 0, 1)[None] / 255, int(V["patch"]))[0]
    close(patch_entropy(grey_of_patches(patches, torch.zeros(3), torch.ones(3))), V["entropy"])


def test_importance() -> None:
    for reduce, name in (("mean", "importance_official"), ("sum", "importance_paper")):
        found = importance(
            receive, torch.zeros(COUNT, dtype=torch.int64), t=T, alpha=ALPHA, entropy=V["entropy"][:, None],
            reduce=reduce,  # type: ignore[arg-type]
        )  # fmt: skip
        close(found.cells, V[name])
        close(found.received[:, 0], V["received"])
        close(found.thresholds[0], V["tau"])
        assert torch.equal(found.important[:, 0].nonzero().flatten(), V["important_idx"])
        assert not found.fallback.any()


def recycled() -> Recycled:
    h, w = V["grid"].tolist()
    down, across = (axis.flatten() for axis in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    cells = grid_cells(down, across, torch.zeros_like(down), SIDE)
    return recycle(V["importance_official"], V["features"], cells, R1, SIDE)


def test_recycling() -> None:
    found = recycled()
    assert torch.equal(found.candidates, V["low_idx"].sort().values)
    assert len(found.candidates) == int(V["n_prune"]) + int(V["n_merge_budget"])
    assert found.cells == int(V["n_cells"])
    assert torch.equal(found.keep, V["kept_idx"])
    close(found.features, V["kept_features"])


def test_stages_two_and_three_follow_the_same_map() -> None:
    values = V["importance_official"][recycled().keep]
    second = most_important(values, R2)
    assert torch.equal(second, V["stage2_keep"])
    third = second[most_important(values[second], R3)]
    assert torch.equal(third, V["stage3_keep"])


def test_budget() -> None:
    close(torch.tensor(mean_retention((R1, R2, R3), (9, 18), 28)), V["avg_retention"])
    close(torch.tensor(third_stage(0.25, 0.3, 0.7, (9, 18), 28)), V["R3_solved_example"])


def test_objective() -> None:
    cosines = torch.nn.functional.cosine_similarity(V["h_full"], V["h_pruned"])
    close(cosines.sum(), V["objective"])
