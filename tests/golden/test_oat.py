"""OAT against the official modules, CPU, spp = 2: methods/oat.md, section 10, tolerance 1e-4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from attn.core.nets.oat import (
    OAT,
    LearnedPositions,
    OATShape,
    OriginalPositions,
    generate,
    index_triples,
    learned_table,
    table_loss,
)
from attn.core.scanpaths import (
    behaviour,
    cell_centres,
    delta,
    fixation_edit_distance,
    multimatch,
    sequence_score,
    step_similarity,
)

VECTORS = Path(__file__).parent / "vectors" / "oat"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def vectors(name):
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def built(mode):
    v = vectors(f"model_{mode}")
    emb, layers, rows = int(v["emb"]), int(v["layers"]), int(v["rows"])
    shape = OATShape(emb, int(v["heads"]), layers, emb, 2, emb, 2)
    positions = (
        LearnedPositions(torch.from_numpy(v["pe_table"]), emb // 2)
        if mode == "learned"
        else OriginalPositions(emb // 2, rows)
    )
    net = OAT(shape, positions).eval()
    state = {
        k[2:]: torch.from_numpy(a) for k, a in v.items() if k.startswith("p.") and not k[2:].startswith(OAT.UNUSED)
    }
    result = net.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) <= {"positions.table"}
    return net, {k: torch.from_numpy(a) for k, a in v.items() if a.dtype.kind in "fi" and not k.startswith("p.")}


@pytest.mark.parametrize("mode", ["learned", "original"])
def test_network(mode):
    net, v = built(mode)
    rows, cols = int(v["rows"]), int(v["cols"])
    seq, source = v["seq"], v["src_index3"]
    with torch.no_grad():
        looks = net.cnn_embedding(v["src_img"])
        torch.testing.assert_close(looks, v["cnn_src"], **CLOSE)
        torch.testing.assert_close(net.positions(source), v["pos_src"], **CLOSE)
        target = (source[-1, :, 0] * cols + source[-1, :, 1]).long()
        triples = index_triples(seq[:-1], target, rows, cols)
        assert torch.equal(triples, v["tgt_index3"].long())
        encoded = net.encode(looks.transpose(0, 1), source)
        shown = net.cnn_embedding(v["tgt_img"][:, :-1]).transpose(0, 1)
        logits = net.decode(shown, triples, encoded, (seq[:-1] == rows * cols + 1).T)
        torch.testing.assert_close(logits, v["logits"], **CLOSE)
        loss = F.cross_entropy(logits.flatten(0, 1), seq[1:].flatten(), ignore_index=rows * cols + 1)
        assert float(loss) == pytest.approx(float(v["loss"]), abs=1e-4)


@pytest.mark.parametrize("mode", ["learned", "original"])
def test_greedy_path(mode):
    net, v = built(mode)
    rows, cols, source = int(v["rows"]), int(v["cols"]), v["src_index3"][:, 0]
    target = int(source[-1, 0] * cols + source[-1, 1])
    paths = [
        generate(net, v["src_img"][0], source, target, rows, cols, longest=len(v["greedy_path"]), decoding=way)
        for way in ("cached", "literal")
    ]
    assert paths[0] == paths[1] == [v["greedy_path"].tolist()]
    drawn = [
        generate(
            net, v["src_img"][0], source, target, rows, cols, longest=12, samples=20,
            generator=torch.Generator().manual_seed(3), decoding=way,
        )
        for way in ("cached", "literal")
    ]  # fmt: skip
    assert drawn[0] == drawn[1]
    assert all(drawn[0])  # EOS is never the first step


def test_original_positions_on_more_than_three_rows():
    row = torch.tensor([[3, 1, 0], [5, 1, 0]])
    fixed, compat = OriginalPositions(12, 5)(row), OriginalPositions(12, 5, compat=True)(row)
    assert fixed[0].any()
    assert not fixed[1].any()
    assert not compat[0].any()
    assert compat[1].any()


def test_grid_of_the_original_positions():
    grid = vectors("model_original")["pe_grid"][0, :, :, :, :]
    triples = torch.from_numpy(np.stack(np.indices(grid.shape[:3]), -1))
    torch.testing.assert_close(OriginalPositions(grid.shape[-1], 3)(triples), torch.from_numpy(grid), **CLOSE)


def test_table_loss():
    v = vectors("pe_loss")
    table = torch.from_numpy(v["W"]).requires_grad_()
    loss = table_loss(table, float(v["sigma"]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(v["loss"]), abs=1e-10)
    np.testing.assert_allclose(table.grad, v["grad"], atol=1e-10)


def test_learned_table_falls_off_with_distance():
    table = learned_table(6, 24, seed=0, steps=1500)
    assert table.shape == (10, 9)
    assert not table[-4:].any()
    likeness = F.cosine_similarity(table[0], table[1:6], dim=1)
    wanted = torch.exp(-(torch.arange(1, 6) ** 2) / 8)
    torch.testing.assert_close(likeness, wanted, atol=0.05, rtol=0)


@pytest.mark.parametrize("case", range(6))
def test_metrics(case):
    v = vectors("metrics")
    gt, pred, target = v[f"gt{case}"].tolist(), v[f"pred{case}"].tolist(), int(v[f"target{case}"])
    assert sequence_score(pred, gt) == pytest.approx(float(v[f"seqscore{case}"]), abs=1e-6)
    assert fixation_edit_distance(pred, gt) == int(v[f"fed{case}"])
    np.testing.assert_allclose(behaviour(pred, target), v[f"behav_pred{case}"], atol=1e-6)
    np.testing.assert_allclose(behaviour(gt, target), v[f"behav_gt{case}"], atol=1e-6)
    w, h = v["screen_w_h"].tolist()
    places = [cell_centres(p, int(v["rows"]), int(v["cols"]), (w, h)) for p in (pred, gt)]
    np.testing.assert_allclose(multimatch(*places, (w, h)), v[f"multimatch{case}"], **CLOSE)


def test_step_similarity():
    v = vectors("metrics")
    assert step_similarity(v["prob_rows"], v["fix"]) == pytest.approx(float(v["sim"]), abs=1e-6)


def test_short_paths_are_nan_unless_compat():
    short, long = np.ones((2, 2)), np.array([[0.0, 0], [5, 5], [9, 1]])
    assert np.isnan(multimatch(short, long, (10, 10))).all()
    assert np.isfinite(multimatch(short, long, (10, 10), compat=True)).all()


def test_delta_is_of_means_over_paths():
    human = [behaviour([0, 0, 1, 0, 2], 2), behaviour([1, 2], 2)]
    assert delta(human, human) == 0
    twice = [b._replace(length=2 * b.length) for b in human]
    assert delta(twice, human) == pytest.approx(0.2)
