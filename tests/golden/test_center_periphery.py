"""Centre-periphery refinement against vectors of a float64 oracle: methods/astigmatism.md, section 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attn.core.nets.center_periphery.alignment import TextAlignment, contrast
from attn.core.nets.center_periphery.prototypes import cells_inside, prototypes_of
from attn.core.nets.center_periphery.refine import centre, fuse, periphery

VECTORS = Path(__file__).parent / "vectors" / "astigmatism"


def vectors(name: str) -> dict[str, Tensor]:
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def near(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=tolerance, atol=tolerance)


def test_prototypes() -> None:
    v = vectors("prototypes")
    boxes, stride = v["boxes"], float(v["stride"])
    assert torch.equal(cells_inside(boxes, v["masks"].shape[1:], stride), v["masks"])
    found = prototypes_of([v["support"]], list(boxes[:, None]), list(v["labels"][:, None]), classes=3, strides=[stride])
    near(found.foreground[0], v["proto_fg"], 1e-6)
    near(found.background[0], v["proto_bg"], 1e-6)
    assert found.known.all()
    assert not found.notes


def test_refine() -> None:
    v = vectors("refine")
    features = v["feat"][None]
    for temperature, suffix in ((float(v["temperature"]), ""), (0.1, "_T01")):
        front = centre(
            features, v["proto_fg"], gamma=float(v["gamma_fg"]), threshold=float(v["tau_fg"]), temperature=temperature
        )
        near(front.similarity[0], v["sim_fg"], 1e-5)
        near(front.weights[0], v[f"weights{suffix}"], 1e-5)
        near(front.positive[0], v[f"pos{suffix}"], 1e-5)
        assert torch.equal(front.mask[0], v["mask_fg"])
        if suffix:
            break
        back = periphery(features, v["proto_bg"], gamma=float(v["gamma_bg"]), threshold=float(v["tau_bg"]))
        near(back.similarity[0], v["sim_bg"], 1e-5)
        near(back.negative[0], v["neg"], 1e-5)
        assert torch.equal(back.mask[0], v["mask_bg"])
        near(fuse(features, front, back, fusion="paper")[0], v["fused_paper"], 1e-5)
        near(fuse(features, front, back, fusion="keep")[0], v["fused_keep"], 1e-5)


def test_text_alignment() -> None:
    v = vectors("text_alignment")
    alignment = TextAlignment(v["vis"].shape[1], v["txt"].shape[1], len(v["b_vis"]))
    names = {"visual.weight": "w_vis", "visual.bias": "b_vis", "text.weight": "w_txt", "text.bias": "b_txt"}
    alignment.load_state_dict({ours: v[theirs] for ours, theirs in names.items()})
    with torch.no_grad():
        similarity = alignment(v["vis"], v["txt"])
        near(similarity, v["sim"], 1e-5)
        for denominator in ("all", "row", "symmetric"):
            loss = contrast(similarity, temperature=float(v["tau"]), denominator=denominator)
            near(loss, v[f"loss_{denominator}"], 1e-5)
        logits = similarity / float(v["tau"])
        near(contrast(similarity, denominator="row"), F.cross_entropy(logits, torch.arange(len(logits))), 1e-6)
