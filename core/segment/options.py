"""What `attn segment` can be told, as one frozen value that travels to the workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..device import pick_dtype
from ..errors import UsageError
from . import MODELS

Protocol = Literal["standard", "fsg"]
LEAST_TILE = 64


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """Everything but where the batch runs.

    Parameters
    ----------
    model : str
        A name in ``attn.core.segment.MODELS``, or a ``.safetensors`` file.
    fov : str
        ``"auto"`` finds the field of view, ``"none"`` takes the whole photo, otherwise a mask file or a directory of
        masks named like the photos.
    truth : Path or None
        True vessels: a file, or a directory of files named like the photos. Adds scores.
    observer : str or None
        Which of several truths of a photo: part of what its file's name, or its folder's, says after the photo's
        (``"2"`` of ``21_manual2``, ``"vk"`` of ``im0001.vk``). None: several are an error.
    measure : bool
        Add the vessel measures, and a row in ``vessels.csv``.
    threshold : float or None
        Least probability of a vessel, 0 < threshold < 1; higher finds fewer vessels. None: the one kept with the model
        (0.5 under the protocol ``fsg``).
    tta : bool
        Mean over four flips.
    tile : int or None
        Side of the tiles in pixels of the model's scale; None lets the model choose.
    clahe : bool
        Even out the contrast first.
    save_attention : bool
        Write the model's attention maps.
    protocol : {"standard", "fsg"}
        How scores are taken: inside the field of view, or as the official FSG-Net code does.
    official_auc : bool
        With ``fsg``: also the value that the official code calls AUC (it is none).
    compare : tuple of str
        Further models to run beside ``model``.
    device, dtype : str
    """

    model: str = "fsgnet"
    fov: str = "auto"
    truth: Path | None = None
    observer: str | None = None
    measure: bool = False
    threshold: float | None = None
    tta: bool = False
    tile: int | None = None
    clahe: bool = False
    save_attention: bool = False
    protocol: Protocol = "standard"
    official_auc: bool = False
    compare: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "float32"


def check_options(options: SegmentOptions) -> None:
    """Refuse before any file is read what can never work. Raises ``UsageError``."""
    for name in (options.model, *options.compare):
        if not name.endswith(".safetensors"):
            MODELS[name].resolve()
    pick_dtype(options.dtype)
    if options.threshold is not None and not 0 < options.threshold < 1:
        raise UsageError(f"--threshold: {options.threshold:g} is no probability between 0 and 1, nor auto.")
    if options.tile is not None and options.tile < LEAST_TILE:
        raise UsageError(f"--tile: {options.tile} px is too small. Use {LEAST_TILE} or more.")
    if options.fov not in ("auto", "none") and not Path(options.fov).exists():
        raise UsageError(f"--fov: {options.fov!r} is neither auto, none, nor a mask or a directory of masks.")
    if options.truth is not None and not options.truth.exists():
        raise UsageError(f"--truth: {options.truth} does not exist.")
    if options.observer is not None and (options.truth is None or not options.truth.is_dir()):
        raise UsageError("--observer chooses among the files of a directory of truths: add --truth DIRECTORY.")
    if options.observer is not None and not options.observer.strip():
        raise UsageError("--observer: name what the files of one observer are called, such as 2 or vk.")
    if options.truth is None and options.protocol == "fsg":
        raise UsageError("--protocol fsg says how scores are taken: add --truth.")
    if options.official_auc and options.protocol != "fsg":
        raise UsageError("--official-auc belongs to the official protocol: add --protocol fsg.")
    baseline = options.model in MODELS and MODELS[options.model].status == "baseline"
    if options.save_attention and baseline:
        raise UsageError(f"--save-attention: {options.model} has no attention maps. Use --model fsgnet.")


def model_name(name: str) -> str:
    """A model's name; a file's absolute path, so that workers elsewhere find it."""
    return os.path.abspath(name) if name.endswith(".safetensors") else name


def other_models(options: SegmentOptions) -> tuple[str, ...]:
    """The models to compare with, each once. Raises ``UsageError`` where there is only the model itself."""
    names = dict.fromkeys(model_name(name) for name in options.compare)
    others = tuple(name for name in names if name != model_name(options.model))
    if options.compare and not others:
        raise UsageError(f"--compare: {options.model} is what they would be compared with. Name other models.")
    return others
