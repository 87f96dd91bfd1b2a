"""Metrics and padding of the official FSG-Net code: methods/fsg-net.md, section 10; 1e-9, padding exact."""

from pathlib import Path

import numpy as np
import pytest

from attn.core.segment.score.metrics import center_pad, fsg_scores, roc_auc

VECTORS = Path(__file__).parent / "vectors" / "fsg-net"
NAMES = {  # of the golden file -> ours
    "f1": "f1",
    "acc": "accuracy",
    "sen": "sensitivity",
    "iou": "iou",
    "mcc": "mcc",
    "auc_sorted_official": "auc_sorted_official",
    "auc_true_per_image_mean": "auc",
    "miou_pooled": "miou",
    "acc_pooled": "accuracy_pooled",
}


@pytest.fixture(scope="module")
def golden():
    with np.load(VECTORS / "metrics.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def ours(golden):
    frames = zip(golden["prob"], golden["label"], strict=True)
    return fsg_scores(frames, threshold=float(golden["threshold"]), square=None, official_auc=True)


@pytest.mark.parametrize("name", NAMES)
def test_metric(golden, ours, name):
    assert ours[NAMES[name]] == pytest.approx(float(golden[name]), rel=0, abs=1e-9)


def test_iou_of_each_class(golden, ours):
    assert [ours["iou_background"], ours["iou_vessel"]] == pytest.approx(golden["class_iou"].tolist(), rel=0, abs=1e-9)


@pytest.mark.parametrize("name", ["f1", "acc", "sen", "iou", "mcc", "miou_pooled", "acc_pooled"])
def test_metric_of_the_official_prediction(golden, name):
    frames = zip(golden["pred"].astype(np.float32), golden["label"], strict=True)
    ours = fsg_scores(frames, threshold=1.0, square=None, official_auc=False)  # a value at the threshold is a vessel
    assert ours[NAMES[name]] == pytest.approx(float(golden[name]), rel=0, abs=1e-9)


def test_area(golden):
    areas = [roc_auc(prob, label) for prob, label in zip(golden["prob"], golden["label"], strict=True)]
    assert np.mean(areas) == pytest.approx(float(golden["auc_true_per_image_mean"]), rel=0, abs=1e-9)


def test_center_pad():
    with np.load(VECTORS / "center_pad.npz") as file:
        padded = center_pad(file["x"], file["out"].shape[-2:])
        assert padded.dtype == file["out"].dtype
        assert np.array_equal(padded, file["out"])
