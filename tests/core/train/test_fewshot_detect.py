"""The few-shot detection recipe: its pictures, boxes, score, files, and a detector class of transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from attn.core.bundles import Compute
from attn.core.errors import UsageError
from attn.core.fit import loop as trainer
from attn.core.nets.center_periphery.module import CenterPeriphery
from attn.core.nets.center_periphery.prototypes import prototypes_of, read_prototypes
from attn.core.options import OptionError, build
from attn.core.train.fewshot_detect import recipe, score
from attn.core.train.fewshot_detect.data import CLASSES, VIEWS, DetectionSet, judged_set, support_set, views
from attn.core.train.fewshot_detect.detector import FoundBoxes, generalised_iou, suppressed
from attn.core.train.fewshot_detect.export import read_detector
from attn.core.train.fewshot_detect.options import FewShotDetectOptions, RefinementOptions
from attn.core.train.fewshot_detect.run import train_fewshot_detect
from attn.core.train.fewshot_detect.transformers_detector import TransformersDetector
from attn.core.train.shapes_vlm.data import prepared


def options(folder: Path, **changes: Any) -> FewShotDetectOptions:
    small = FewShotDetectOptions(
        folder, shots=(1,), repeats=1, modules=("plain", "ppr+ncm+tsa"), source_steps=3, steps=2, batch=2, judged=4,
        refinement=RefinementOptions(texts=4), compute=Compute(device="cpu", threads=1),
    )  # fmt: skip
    return replace(small, **changes)


def test_a_run_that_was_stopped_goes_on_and_its_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)
    monkeypatch.setattr(recipe, "GLANCED", 4)
    whole = train_fewshot_detect(options(tmp_path / "whole"))
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert [json.loads(line)["modules"] for line in lines.splitlines()] == ["plain", "ppr+ncm+tsa"]
    assert any("against plain" in notice for notice in whole.notices)
    assert set(whole.items[0].files) >= {"card", "prototypes", "masks", "metrics"}
    detector = read_detector(tmp_path / "whole" / "model.safetensors")
    pictures = judged_set(2, 0, shifted=True).pictures
    assert len(detector.detect(detector.prepare(pictures))) == 2
    kept = read_prototypes(tmp_path / "whole" / "prototypes.npz")
    torch.testing.assert_close(detector.refinement.get_buffer("foreground_0"), kept.foreground[0], rtol=1e-2, atol=1e-2)

    def refused(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "contrast", refused)
        stopped = train_fewshot_detect(options(tmp_path / "stopped"))
    assert stopped.left
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "source_batch", refused)  # the source detector is read, not trained again
        train_fewshot_detect(options(tmp_path / "stopped"))
    assert (tmp_path / "stopped" / "metrics.jsonl").read_text() == lines


def test_a_missing_scorer_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"pip install 'attn\[detect\]'"):
        train_fewshot_detect(options(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"shots": "1,x"}, "shots: '1,x' is no list of whole numbers"),
        ({"shots": "0"}, "shots: 0 is no number from 1 to 100"),
        ({"shots": "5,5"}, "shots: it names one twice"),
        ({"modules": "plane"}, "modules: 'plane' is no choice"),
        ({"modules": ","}, "modules: it is empty"),
        ({"temperature": 0.0}, "temperature: 0.0 is too small"),
    ],
)
def test_options_that_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        build(FewShotDetectOptions, {"output": "run", **given})


def test_support_sets_show_every_class_equally_and_sets_are_disjoint() -> None:
    drawn = support_set(2, 0)
    assert np.bincount(torch.cat(drawn.labels).numpy()).tolist() == [2] * len(CLASSES)
    assert len(drawn) == 4
    known = {picture.tobytes() for picture in drawn.pictures}
    others = [support_set(2, 1), support_set(1, 0), judged_set(4, 0, shifted=True)]
    others += [judged_set(4, 0, shifted=True, held_out=True), judged_set(4, 0, shifted=False)]
    for other in others:
        fresh = {picture.tobytes() for picture in other.pictures}
        assert not fresh & known
        known |= fresh
    assert np.array_equal(support_set(2, 0).pictures, drawn.pictures)


def test_boxes_follow_their_objects_through_the_views() -> None:
    picture = np.zeros((1, 96, 96, 3), np.uint8)
    picture[0, 20:36, 60:80] = 255
    seen, boxes = views(prepared(picture), [torch.tensor([[60.0, 20.0, 80.0, 36.0]])], 3)
    assert len(seen) == len(boxes) == VIEWS
    for view, (box,) in zip(seen, boxes, strict=True):
        bright = (view[0] > 0).nonzero().float()
        (y0, x0), (y1, x1) = bright.amin(0), bright.amax(0) + 1
        assert (torch.stack([x0, y0, x1, y1]) - box).abs().max() < 1.01


def test_scores_of_perfect_doubled_and_missing_boxes() -> None:
    boxes, labels = (torch.tensor([[10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 60.0, 60.0]]),), (torch.tensor([0, 3]),)
    wanted = DetectionSet(np.zeros((1, 96, 96, 3), np.uint8), boxes, labels)
    own = boxes[0].numpy()
    perfect = [FoundBoxes(own, np.array([0.9, 0.8], np.float32), labels[0].numpy())]
    assert score.average_precision(perfect, wanted) == pytest.approx({"map": 1.0, "ap50": 1.0})
    assert score.redundant(perfect, wanted) == 0
    two = np.concatenate([own, own]), np.array([0.9, 0.8, 0.5, 0.2], np.float32), np.tile(labels[0].numpy(), 2)
    assert score.redundant([FoundBoxes(*two)], wanted) == 0.5  # one of the doubles would not be shown
    nothing = [FoundBoxes(own[:0], np.zeros(0, np.float32), np.zeros(0, np.int64))]
    assert score.average_precision(nothing, wanted) == {"map": 0.0, "ap50": 0.0}


def test_suppression_is_within_a_class() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [40, 40, 50, 50]], np.float32)
    chances = np.array([[0.9, 0.6], [0.8, 0.0], [0.3, 0.0]], np.float32)
    found = suppressed(boxes, chances)
    assert list(zip(found.labels.tolist(), found.scores.round(1).tolist(), strict=True)) == [
        (0, pytest.approx(0.9)), (1, pytest.approx(0.6)), (0, pytest.approx(0.3)),
    ]  # fmt: skip
    assert float(generalised_iou(torch.from_numpy(boxes[:1]), torch.from_numpy(boxes[:1]))) == pytest.approx(1)


def test_a_detector_class_of_transformers_runs_behind_the_same_interface() -> None:
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=6, num_labels=len(CLASSES),
    )  # fmt: skip
    module = CenterPeriphery(threshold_front=0.2, threshold_back=0.2)
    detector = TransformersDetector(hf.DetrForObjectDetection(config), module, strides=(8.0,), width=16)
    drawn = support_set(1, 0)
    inputs = detector.prepare(drawn.pictures)
    assert [list(level.shape) for level in detector.maps(inputs)] == [[2, 16, 12, 12]]
    support = recipe.support_of(detector, inputs, drawn, 0)
    module.load(prototypes_of(detector.maps(inputs), drawn.boxes, drawn.labels, classes=len(CLASSES), strides=(8.0,)))
    adapted = recipe.AdaptRecipe(
        detector, support, drawn, inputs, torch.randn(3, 5), RefinementOptions(), seed=0, batch=2
    )
    adapted.loss(0).backward()
    assert module.raw_front.grad is not None
    assert not any(p.requires_grad for p in detector.model.model.backbone.parameters())
    detector.eval()
    metrics = adapted.evaluate(adapted.model)
    assert set(metrics) >= {"ap50", "map", "redundant", "distance", "cells_both", "loss_detector", "loss_tsa"}
    assert 0 < metrics["distance"] < 17
