"""One photo on its way through `attn segment`: read with its field of view and truth, shown to a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..batch.task import Task
from ..device import pick_device
from ..errors import InputError, UsageError
from ..io.photo.read import Photo, read_photo
from ..memory import check_memory
from .base import Prediction, Segmenter
from .companions import Companions
from .fov import Fov, find_fov, fov_from_mask, whole_image
from .masks import MAX_SIDE, Mask, brightness, darkness, mask_of
from .models import load
from .options import Asked, SegmentOptions
from .outputs import Segmented, least, quantise
from .threshold import Threshold, threshold_of

LEAST_SIDE = 16
LEAST_DIAMETER = 128
"""Fields of view of fewer pixels across show few vessels: most are thinner than a pixel."""
MOST_VESSEL = 0.5
"""Share of the field of view; a truth with more is inverted, or no truth. Vessels take 7 to 16 %."""
WORK_BYTES, CLAHE_BYTES, COMPARE_BYTES = 48, 48, 12
"""Bytes per pixel of the reduced photo at the peak, from reading to writing, beside the network itself; what CLAHE and
each further model add. Measured at 4096 x 4096: 36, 41 and 6."""
OFFICIAL_THRESHOLD = 0.5


@lru_cache(maxsize=8)
def segmenter_of(name: str, device: str, dtype: str) -> Segmenter:
    """A model, loaded once per process however many photos there are."""
    return load(name, device=pick_device(device), dtype=dtype)


@dataclass(frozen=True, slots=True)
class Case:
    """One photo, ready: what every model is shown and scored with."""

    path: Path
    photo: Photo
    fov: Fov
    pixels: NDArray[np.float32]
    truth: Mask | None

    @property
    def factor(self) -> float:
        """Pixels of the file per pixel that is segmented."""
        return float(max(self.photo.size) / max(self.fov.mask.shape))


def read_case(task: Task, options: SegmentOptions) -> tuple[Case, list[str]]:
    """The photo, its field of view and its truth. Raises ``InputError``."""
    companions: Companions = task.payload
    photo = read_photo(task.source, max_side=MAX_SIDE)
    if min(photo.size) < LEAST_SIDE:
        sides = f"{photo.size[1]} x {photo.size[0]}"
        raise InputError(task.source, f"is too small: {sides} pixels, at least {LEAST_SIDE} a side are needed")
    warnings = [*photo.warnings, *companions.notes]
    shape = photo.pixels.shape[1:]
    each = WORK_BYTES + CLAHE_BYTES * options.clahe + COMPARE_BYTES * len(options.compare)
    check_memory(task.source, each * shape[0] * shape[1], "segmenting it takes")
    if shape != photo.size:
        warnings.append(f"segmented, measured and drawn at {shape[1]} x {shape[0]} pixels, written at its own size")
    if photo.orientation != 1:
        warnings.append(f"turned upright by its EXIF orientation {photo.orientation}; the results are upright, too")
    fov = _field_of_view(task, photo, options, warnings)
    if fov.diameter * max(photo.size) / max(shape) < LEAST_DIAMETER:
        warnings.append(f"its field of view is {fov.diameter:.0f} px across: too few to show most vessels")
    truth = None
    if companions.truth is not None:
        truth = mask_of(photo, companions.truth, "truth", warnings, lambda: darkness(photo.pixels))
        _look_at(truth, fov, warnings)
    pixels = clahe(photo.pixels) if options.clahe else photo.pixels
    return Case(task.source, photo, fov, pixels, truth), warnings


def _look_at(truth: Mask, fov: Fov, warnings: list[str]) -> None:
    """Warn of a truth that cannot be one."""
    inside = truth.pixels[fov.mask]
    share = np.count_nonzero(inside) / max(1, inside.size)
    if share == 0:
        warnings.append("its truth has no vessel in the field of view: sensitivity and AUC have no value")
    elif share == 1:
        warnings.append("its truth is vessel all over the field of view: specificity and AUC have no value")
    elif share > MOST_VESSEL:
        warnings.append(f"its truth calls {share:.0%} of the field of view vessel: are black and white exchanged?")


def _field_of_view(task: Task, photo: Photo, options: SegmentOptions, warnings: list[str]) -> Fov:
    if options.fov == "none":
        return whole_image(photo.pixels.shape[1:])
    try:
        if options.fov == "auto":
            fov = find_fov(photo.pixels)
        else:
            path: Path = task.payload.fov
            what = "mask of the field of view"
            mask = mask_of(photo, path, what, warnings, lambda: brightness(photo.pixels), word="inside")
            if not mask.pixels.any():
                fix = "Give one that is white inside, --fov auto or --fov none"
                raise InputError(task.source, f"its {what} {path} is black: no pixel would be inside", fix)
            fov = fov_from_mask(mask.pixels)
    except ValueError as error:
        fix = "If it is a fundus photograph, give --fov none or a mask"
        raise InputError(task.source, str(error).partition(". ")[0].rstrip("."), fix) from None
    warnings += fov.warnings
    return fov


def clahe(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Contrast-limited equalisation of the lightness. [3, H, W] in [0, 1] -> the same.

    methods/fsg-net.md, section 3.4, step 29: clip 2.0 (times the mean count of a bin), 8 x 8 tiles, L of Lab.
    """
    from skimage.color import lab2rgb, rgb2lab
    from skimage.exposure import equalize_adapthist

    lab = rgb2lab(np.moveaxis(pixels, 0, -1))  # [H, W, 3]
    tiles = [max(1, side // 8) for side in lab.shape[:2]]
    lab[..., 0] = 100 * equalize_adapthist(lab[..., 0] / 100, kernel_size=tiles, clip_limit=2.0 / 256, nbins=256)
    return np.ascontiguousarray(np.moveaxis(np.clip(lab2rgb(lab), 0, 1), -1, 0), np.float32)


def asked_of(options: SegmentOptions, *, own: bool) -> Asked | Threshold:
    """What is asked of a model: a number was meant for the one it was given with, the official protocol has its own."""
    asked: Asked = options.threshold if own or isinstance(options.threshold, str) else "auto"
    return Threshold(OFFICIAL_THRESHOLD, "fsg") if (asked, options.protocol) == ("auto", "fsg") else asked


def segment_case(case: Case, model: str, options: SegmentOptions) -> tuple[Segmented, Prediction]:
    """One photo through one model. Raises ``InputError`` where the model cannot take it."""
    segmenter, own = segmenter_of(model, options.device, options.dtype), model == options.model
    wanted = options.save_attention and own
    try:
        prediction = segmenter(case.pixels, case.fov, tta=options.tta, tile=options.tile, attention=wanted)
    except UsageError:
        raise
    except ValueError as error:
        raise InputError(case.path, f"cannot be segmented ({error})") from error
    stored = quantise(prediction.prob, case.fov.mask)
    threshold = asked_of(options, own=own)
    if not isinstance(threshold, Threshold):
        threshold = threshold_of(threshold, segmenter.threshold, segmenter.calibration, stored, case.fov.mask)
    maps = prediction.attention if wanted else {}
    mask = stored >= least(threshold.value)
    return Segmented(case.photo, case.fov, stored, mask, segmenter.name, threshold, maps), prediction
