"""How a vessel model stands another camera: scores on DRIVE photos whose colours, sharpness and scale were changed.

``python tests/benchmarks/camera_shift.py DATA/fundus/DRIVE [--model NAME] [--photos 01,02] [--tta] [--smooth S]``
prints a Markdown table: means over the photos (default: the test half), inside the field of view, at the threshold that
``--threshold`` (auto, model or a number) means. ``--smooth`` blurs every photo by S pixels before the model looks.
The program finds field of view and scale itself, as for a photo of an unknown camera.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attn.core.io.photo.read import read_photo
from attn.core.segment.fov import find_fov, fov_from_mask
from attn.core.segment.models import load
from attn.core.segment.options import parse_threshold
from attn.core.segment.outputs import quantise
from attn.core.segment.prepare import rescale
from attn.core.segment.score.metrics import scores
from attn.core.segment.threshold import threshold_of
from attn.core.train.fsgnet.augment import gaussian_blur, through_jpeg

Image = NDArray[np.float32]


def scaled(factor: float):
    def change(image: Image) -> Image:
        size = (round(image.shape[1] * factor), round(image.shape[2] * factor))
        return rescale(torch.from_numpy(image), size).numpy().clip(0, 1)

    return change


def tinted(*gains: float):
    return lambda image: (image * np.array(gains, np.float32)[:, None, None]).clip(0, 1)


def middle(h: int, w: int) -> NDArray[np.bool_]:
    """Where a field of 30 degrees lies in one of 45: [h, w]."""
    y, x = np.mgrid[:h, :w]
    return (y - h / 2) ** 2 + (x - w / 2) ** 2 < (0.31 * min(h, w)) ** 2


def zoomed(image: Image) -> Image:
    """The middle two thirds, as a camera with a field of 30 degrees sees it."""
    h, w = image.shape[1:]
    top, left = h // 6, w // 6
    return (image * middle(h, w))[:, top : h - top, left : w - left]


def shaded(image: Image) -> Image:
    """Light that falls off to one side by half."""
    return (image * np.linspace(1.0, 0.5, image.shape[2], dtype=np.float32)).clip(0, 1)


SHIFTS = {
    "as it is": lambda image: image,
    "as it is, scored where a field of 30 degrees lies": lambda image: image,
    "half the size": scaled(0.5),
    "2.5 times the size": scaled(2.5),
    "field of 30 degrees (middle two thirds)": zoomed,
    "warm light (red 1.3, blue 0.5)": tinted(1.3, 1.0, 0.5),
    "cold light (red 0.5, blue 1.6)": tinted(0.5, 1.0, 1.6),
    "half the light": tinted(0.5, 0.5, 0.5),
    "gamma 1.8": lambda image: image**1.8,
    "gamma 0.6": lambda image: image**0.6,
    "light falls off to one side": shaded,
    "grey (green channel)": lambda image: image[1:2].repeat(3, 0),
    "blur, sigma 1": lambda image: gaussian_blur(torch.from_numpy(image), 1.0).numpy(),
    "JPEG, quality 30": lambda image: through_jpeg(torch.from_numpy(image), 30).numpy(),
    "noise, 4 % of full scale": lambda image: (
        image + 0.04 * np.random.default_rng(0).standard_normal(image.shape, np.float32)
    ).clip(0, 1),
}
IN_THE_MIDDLE = "as it is, scored where a field of 30 degrees lies"
"""What the row of 30 degrees can be compared with: the middle of a retina, with the fovea, is harder than the rest."""
MOVED = {"half the size", "2.5 times the size", "field of 30 degrees (middle two thirds)"}
"""Shifts that move pixels: truth and field of view go the same way."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="fsgnet")
    parser.add_argument("--photos", default="")
    parser.add_argument("--threshold", default="auto", type=parse_threshold)
    parser.add_argument("--tta", action="store_true")
    parser.add_argument("--smooth", default=0.0, type=float)
    arguments = parser.parse_args()
    split = json.loads((arguments.data / "splits.json").read_text())
    names = arguments.photos.split(",") if arguments.photos else split["test"]
    segmenter = load(arguments.model)
    print("| DRIVE photos, changed | F1 | AUC | sensitivity | specificity |\n|---|---|---|---|---|")
    for shift, change in SHIFTS.items():
        rows = []
        for name in names:
            layers = {
                part: read_photo(arguments.data / part / f"{name}.png", uniform=True).pixels
                for part in ("images", "manual", "fov")
            }
            image = np.ascontiguousarray(change(layers["images"]), np.float32)
            if arguments.smooth:
                image = gaussian_blur(torch.from_numpy(image), arguments.smooth).numpy()
            truth, field = ((change(layers[p]) if shift in MOVED else layers[p])[0] > 0.5 for p in ("manual", "fov"))
            inside = fov_from_mask(field).mask
            scored = inside & middle(*inside.shape) if shift == IN_THE_MIDDLE else inside
            found = find_fov(image)
            prob = segmenter(image, found, tta=arguments.tta).prob
            stored = quantise(prob, found.mask)
            threshold = threshold_of(
                arguments.threshold, segmenter.threshold, segmenter.calibration, stored, found.mask
            ).value
            rows.append(scores(prob, truth & scored, scored, threshold=threshold))
        means = [np.mean([row[key] for row in rows]) for key in ("f1", "auc", "sensitivity", "specificity")]
        print(f"| {shift} | " + " | ".join(f"{value:.4f}" for value in means) + " |", flush=True)


if __name__ == "__main__":
    main()
