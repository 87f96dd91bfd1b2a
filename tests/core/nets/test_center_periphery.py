"""The refinement of feature maps, apart from its golden vectors: tests/golden/test_center_periphery.py."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn.core.errors import InputError
from attn.core.nets.center_periphery.alignment import TextAlignment, contrast
from attn.core.nets.center_periphery.module import CenterPeriphery, wrap
from attn.core.nets.center_periphery.prototypes import Prototypes, prototypes_of, read_prototypes, sound_boxes
from attn.core.nets.center_periphery.refine import centre, fuse, periphery

STRIDES = (4.0, 8.0)


def maps(channels: tuple[int, int] = (8, 12), pictures: int = 3) -> list[Tensor]:
    return [torch.randn(pictures, channels[0], 12, 12), torch.randn(pictures, channels[1], 6, 6)]


def support(features: list[Tensor], classes: int = 3) -> Prototypes:
    boxes = [torch.tensor([[4.0, 4.0, 20.0, 20.0], [24.0, 24.0, 40.0, 40.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0]])]
    labels = [torch.tensor([0, 1]), torch.tensor([1])]
    boxes.append(torch.empty(0, 4))
    labels.append(torch.empty(0, dtype=torch.int64))
    return prototypes_of(features, boxes, labels, classes=classes, strides=STRIDES)


def test_without_prototypes_it_is_the_identity() -> None:
    features = maps()
    assert all(a is b for a, b in zip(CenterPeriphery()(features), features, strict=True))


def test_levels_of_different_widths_and_learned_gammas() -> None:
    features = maps()
    module = CenterPeriphery(threshold_front=0.2, threshold_back=0.2, gamma_front=0.7, gamma_back=0.3)
    module.load(support(features))
    assert float(module.gamma_front.detach()) == pytest.approx(0.7)
    assert float(module.gamma_back.detach()) == pytest.approx(0.3)
    refined = module(features)
    assert [r.shape for r in refined] == [f.shape for f in features]
    sum(r.square().sum() for r in refined).backward()
    assert module.raw_front.grad is not None
    assert module.raw_back.grad is not None
    assert len(list(module.parameters())) == 2  # prototypes are buffers
    assert sum(module.shares[name] for name in ("front", "back", "none")) - module.shares["both"] == pytest.approx(1)


def test_a_class_without_boxes_has_no_weight_and_is_said() -> None:
    features = maps()
    found = support(features)
    assert found.known.tolist() == [True, True, False]
    assert found.notes == ("no support boxes of classes 2: nothing is injected for them",)
    front = centre(features[0], found.foreground[0], gamma=1.0, threshold=-0.9, temperature=1.0, known=found.known)
    assert not front.weights[:, 2].any()
    torch.testing.assert_close(front.weights.sum(1), torch.ones_like(front.mask))


def test_half_precision_maps_are_refined_in_float32() -> None:
    features = maps()
    module = CenterPeriphery(threshold_front=0.2, threshold_back=0.2)
    module.load(support(features))
    halves = [f.bfloat16() for f in features]
    whole = module([h.float() for h in halves])
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(module(halves), whole, strict=True))


def parts(features: Tensor) -> tuple[Any, Any]:
    rows = torch.randn(3, features.shape[1])
    front = centre(features, rows, gamma=1.0, threshold=0.1, temperature=1.0)
    return front, periphery(features, features.mean((0, 2, 3)) + rows[0], gamma=0.5, threshold=0.1)


def test_what_each_fusion_does_to_cells_in_neither_and_in_both() -> None:
    features = maps()[0]
    front, back = parts(features)
    neither, both = (front.mask + back.mask) == 0, (front.mask * back.mask) == 1
    assert neither.any()
    assert both.any()
    kept, paper = fuse(features, front, back), fuse(features, front, back, fusion="paper")
    where = neither[:, None].expand_as(features)
    assert torch.equal(kept[where], features[where])
    assert not paper[where].any()
    where = both[:, None].expand_as(features)
    assert torch.equal(kept[where], (front.positive + back.negative)[where])
    single = fuse(features, front, back, exclusive=True)
    larger = front.similarity.amax(1) >= back.similarity
    wanted = torch.where(larger[:, None], front.positive, back.negative)
    assert torch.equal(single[where], wanted[where])
    assert torch.equal(single[~where], kept[~where])


def test_one_module_alone_leaves_the_other_mask_empty() -> None:
    features = maps()[0]
    front, back = parts(features)
    outside = (front.mask == 0)[:, None].expand_as(features)
    assert torch.equal(fuse(features, front, None)[outside], features[outside])
    assert torch.equal(fuse(features, None, back, fusion="paper"), back.negative)


def test_boxes_are_clipped_dropped_and_told() -> None:
    boxes = torch.tensor([[-5.0, 0.0, 8.0, 8.0], [3.0, 3.0, 3.0, 9.0], [60.0, 0.0, 70.0, 9.0], [1.0, 1.0, 9.0, 9.0]])
    inside, kept, clipped = sound_boxes(boxes, (48, 48))
    assert kept.tolist() == [True, False, False, True]
    assert (inside[0].tolist(), clipped) == ([0.0, 0.0, 8.0, 8.0], 1)
    found = prototypes_of([torch.randn(1, 4, 6, 6)], [boxes], [torch.zeros(4).long()], classes=1, strides=[8.0])
    assert found.notes == (
        "1 boxes reach out of their pictures and were clipped",
        "2 boxes without an area inside their pictures were dropped",
    )


@pytest.mark.parametrize(
    ("boxes", "labels", "says"),
    [
        ([[0.0, 0.0, 48.0, 48.0]], [0], "no background"),
        ([[0.0, 0.0, 9.0, 9.0]], [5], "labels go from 0 to 1"),
        ([[0.0, 0.0, 9.0]], [0], "boxes are finite"),
    ],
)
def test_unfit_support_is_refused(boxes: list[list[float]], labels: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        prototypes_of(
            [torch.randn(1, 4, 6, 6)], [torch.tensor(boxes)], [torch.tensor(labels)], classes=2, strides=[8.0]
        )


def test_prototypes_are_written_and_read(tmp_path: Path) -> None:
    features = maps()
    path = tmp_path / "prototypes.npz"
    support(features).save(path)
    one, other = CenterPeriphery(threshold_front=0.1), CenterPeriphery(threshold_front=0.1)
    one.load(support(features))
    other.load(read_prototypes(path))
    assert all(torch.equal(a, b) for a, b in zip(one(features), other(features), strict=True))


@pytest.mark.parametrize("content", ["text", "pickle", "shapes"])
def test_other_files_hold_no_prototypes(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.npz"
    if content == "shapes":
        np.savez(path, known=np.ones(2, bool), foreground_0=np.zeros((3, 4)), background_0=np.zeros(4))
    else:
        path.write_bytes(b"hello" if content == "text" else pickle.dumps([1]))
    with pytest.raises(InputError, match="holds no prototypes"):
        read_prototypes(path)


class Pyramid(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"levels": [(x, torch.ones(len(x), 12, 12)), (x[:, :, ::2, ::2], None)], "name": "p"}


class Whole(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Any:
        return self.backbone(x)


def test_wrap_replaces_maps_and_leaves_the_rest() -> None:
    model, features = Whole(Pyramid()), maps((8, 8))
    module = CenterPeriphery(threshold_front=0.1, threshold_back=0.1)
    module.load(support(features))
    before = model(features[0])
    handle = wrap(model, module)
    after = model(features[0])
    wanted = module([before["levels"][0][0], before["levels"][1][0]])
    assert torch.equal(after["levels"][0][0], wanted[0])
    assert torch.equal(after["levels"][1][0], wanted[1])
    assert torch.equal(after["levels"][0][1], before["levels"][0][1])
    assert after["name"] == "p"
    handle.remove()
    assert torch.equal(model(features[0])["levels"][0][0], features[0])


def test_wrap_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="no part named 'neck'"):
        wrap(Whole(Pyramid()), CenterPeriphery(), "neck")
    model = Whole(nn.Flatten())
    wrap(model, CenterPeriphery())
    with pytest.raises(ValueError, match="yields no feature map"):
        model(maps()[0])
    model, module = Whole(nn.Identity()), CenterPeriphery()
    module.load(support(maps()))
    wrap(model, module)
    with pytest.raises(ValueError, match="prototypes are of 2 feature maps, the module yields 1"):
        model(maps()[0])


def test_fewer_background_features_than_texts_are_recycled() -> None:
    alignment, visual, text = TextAlignment(6, 5, 4), torch.randn(2, 6), torch.randn(5, 5)
    similarity = alignment(visual, text)
    assert similarity.shape == (5, 5)
    assert torch.equal(similarity[0], similarity[2])
    with pytest.raises(ValueError, match="no denominator"):
        contrast(similarity, denominator="none")  # type: ignore[arg-type]
