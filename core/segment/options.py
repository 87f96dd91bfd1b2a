"""What `attn segment` can be told, as one frozen value that travels to the workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..bundles import Device, Dtype
from ..catalogue import complete
from ..device import pick_dtype
from ..options import Option, OptionError, check
from . import MODELS

Protocol = Literal["standard", "fsg"]
Asked = float | Literal["auto", "model"]
"""Of a threshold: a number, the one of the largest expected F1, or the one kept with the model."""
LEAST_TILE = 64


def parse_threshold(text: str) -> float | str:
    """A number, or the word as it is: ``check_threshold`` judges both."""
    try:
        return float(text)
    except ValueError:
        return text


def check_threshold(threshold: Asked) -> None:
    """Raises ``OptionError`` for what is neither a probability nor ``auto`` or ``model``."""
    if isinstance(threshold, str) or isinstance(threshold, bool) or not isinstance(threshold, int | float):
        if threshold not in ("auto", "model"):
            raise OptionError(f"{{threshold}}: {threshold!r} is neither auto, model nor a number between 0 and 1.")
    elif not 0 < threshold < 1:
        raise OptionError(f"{{threshold}}: {threshold:g} is no probability between 0 and 1.")


def parse_models(text: str) -> tuple[str, ...]:
    """``frangi,sato`` as names. Raises ``ValueError`` where there is none."""
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    if not names:
        raise ValueError("name models, separated by commas. `attn segment --list` shows all.")
    return names


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
    threshold : float, "auto" or "model"
        Least probability of a vessel, 0 < threshold < 1; higher finds fewer vessels. ``"auto"`` chooses it for each
        photo (see ``threshold``; 0.5 under the protocol ``fsg``), ``"model"`` takes the one kept with the model.
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

    model: Annotated[
        str,
        Option(
            "See --list; or a .safetensors file that attn train wrote.",
            short="-m", metavar="NAME|FILE", complete=complete("segment"),
        ),
    ] = "fsgnet"  # fmt: skip
    fov: Annotated[
        str,
        Option(
            "Field of view: found, the whole photo, or a mask or a directory of masks named like the photos.",
            metavar="auto|none|PATH",
        ),
    ] = "auto"
    truth: Annotated[
        Path | None,
        Option("True vessels, or a directory of them named like the photos: adds scores.", metavar="PATH"),
    ] = None
    observer: Annotated[
        str | None,
        Option(
            "Which truth where a photo has several: 2 takes 21_manual2 or 2nd_manual/21, vk takes im0001.vk.",
            metavar="WORD",
        ),
    ] = None
    measure: Annotated[
        bool,
        Option("Vessel measures (length, branch points, calibre, tortuosity, fractal dimension), and vessels.csv."),
    ] = False
    threshold: Annotated[
        Asked,
        Option(
            "Least probability of a vessel; higher finds fewer. auto: chosen for each photo by the F1 to expect; "
            "model: the value kept with the model.",
            metavar="auto|model|T", parse=parse_threshold, text="auto",
        ),
    ] = "auto"  # fmt: skip
    tta: Annotated[bool, Option("Mean over four flips: slower, a little better.")] = False
    tile: Annotated[
        int | None,
        Option(
            "Side of the tiles in pixels of the model's scale; less memory.",
            metavar="N", least=LEAST_TILE, shown="by size",
        ),
    ] = None  # fmt: skip
    clahe: Annotated[bool, Option("Even out the contrast first (CLAHE).")] = False
    save_attention: Annotated[bool, Option("Write the model's attention maps: NAME.attention.npz and .png.")] = False
    compare: Annotated[
        tuple[str, ...],
        Option(
            "Further models, separated by commas, side by side: one table and NAME.compare.png.",
            metavar="NAMES", parse=parse_models,
        ),
    ] = ()  # fmt: skip
    protocol: Annotated[
        Protocol,
        Option(
            "Scores inside the field of view, or as the official FSG-Net code takes them (threshold 0.5).",
            metavar="standard|fsg",
        ),
    ] = "standard"
    official_auc: Annotated[bool, Option("With --protocol fsg: also what that code calls AUC.")] = False
    device: Device = "auto"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check(self)
        check_threshold(self.threshold)


def check_options(options: SegmentOptions) -> None:
    """Refuse before any file is read what can never work. Raises ``UsageError``."""
    for name in (options.model, *options.compare):
        if not is_file(name):
            MODELS[name].resolve()
    pick_dtype(options.dtype)
    if options.tile is not None and options.tile < LEAST_TILE:
        raise OptionError(f"{{tile}}: {options.tile} px is too small. Use {LEAST_TILE} or more.")
    if options.fov not in ("auto", "none") and not Path(options.fov).exists():
        raise OptionError(f"{{fov}}: {options.fov!r} is neither auto, none, nor a mask or a directory of masks.")
    if options.truth is not None and not options.truth.exists():
        raise OptionError(f"{{truth}}: {options.truth} does not exist.")
    if options.observer is not None and (options.truth is None or not options.truth.is_dir()):
        raise OptionError("{observer} chooses among the files of a directory of truths: add {truth} DIRECTORY.")
    if options.observer is not None and not options.observer.strip():
        raise OptionError("{observer}: name what the files of one observer are called, such as 2 or vk.")
    if options.truth is None and options.protocol == "fsg":
        raise OptionError("{protocol} fsg says how scores are taken: add {truth}.")
    if options.official_auc and options.protocol != "fsg":
        raise OptionError("{official_auc} belongs to the official protocol: add {protocol} fsg.")
    reads = None if is_file(options.model) else MODELS[options.model].options
    if options.save_attention and reads is not None and "save_attention" not in reads:
        raise OptionError(f"{{save_attention}}: {options.model} has no attention maps. Use {{model}} fsgnet.")


def is_file(name: str) -> bool:
    """Whether a model is given as a file, not by its name."""
    return name.endswith(".safetensors")


def model_name(name: str) -> str:
    """A model's name; a file's absolute path, so that workers elsewhere find it."""
    return os.path.abspath(name) if is_file(name) else name


def other_models(options: SegmentOptions) -> tuple[str, ...]:
    """The models to compare with, each once. Raises ``UsageError`` where there is only the model itself."""
    names = dict.fromkeys(model_name(name) for name in options.compare)
    others = tuple(name for name in names if name != model_name(options.model))
    if options.compare and not others:
        raise OptionError(f"{{compare}}: {options.model} is what they would be compared with. Name other models.")
    return others
