"""What `attn segment` can be told, as one frozen value that travels to the workers, and the files it names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..batch import Task
from ..device import pick_dtype
from ..errors import InputError, UsageError
from ..io.photo import PHOTO_SUFFIXES
from ..io.walk import Input, output_paths
from . import MODELS
from .outputs import side_paths

Protocol = Literal["standard", "fsg"]
LEAST_TILE = 64
ROLES = frozenset(
    "ah fov gt image img label labels manual manual1 manual2 mask masks seg test training truth vessel vessels vk "
    "1stho 2ndho 1stmanual 2ndmanual".split()
)
"""Last words of a name that say what a file is, not which photo it belongs to: ``21_training``, ``21_manual1``."""


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


@dataclass(frozen=True, slots=True)
class Companions:
    """The files that belong to one photo, absolute, and what the user should know about how they were found."""

    truth: Path | None = None
    fov: Path | None = None
    notes: tuple[str, ...] = ()


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
    if options.truth is None and options.protocol == "fsg":
        raise UsageError("--protocol fsg says how scores are taken: add --truth.")
    if options.official_auc and options.protocol != "fsg":
        raise UsageError("--official-auc belongs to the official protocol: add --protocol fsg.")
    baseline = options.model in MODELS and MODELS[options.model].status == "baseline"
    if options.save_attention and baseline:
        raise UsageError(f"--save-attention: {options.model} has no attention maps. Use --model fsgnet.")


def companions(source: Input, options: SegmentOptions) -> Companions:
    """Truth and mask of one photo.

    Raises
    ------
    InputError
        If one is missing, or several could be meant.
    """
    notes: list[str] = []
    truth = None if options.truth is None else _belonging(source, options.truth, "truth", notes)
    fov = None
    if options.fov not in ("auto", "none"):
        fov = _belonging(source, Path(options.fov), "mask of the field of view", notes)
    return Companions(truth, fov, tuple(notes))


def _belonging(source: Input, place: Path, what: str, notes: list[str]) -> Path:
    """``place`` itself, or the file in it that is named like the photo."""
    if not place.is_dir():
        return place.absolute()
    below = source.path.parent.relative_to(source.root) if source.root is not None else Path()
    folder = place / below if (place / below).is_dir() else place  # a tree of truths mirrors a tree of photos
    own = source.path.resolve()
    files = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in PHOTO_SUFFIXES and p.resolve() != own]
    stem = source.path.stem
    found = [p for p in files if p.stem.lower() == stem.lower()]
    if not found:
        found = [p for p in files if core_of(p.stem) == core_of(stem)]
        if len(found) == 1:
            notes.append(f"its {what} is taken to be {found[0].name}, by the beginning of the name")
    if len(found) == 1:
        return found[0].absolute()
    if found:
        raise InputError(source.path, f"has several candidates for its {what}: {_names(found)}", "Name one file")
    near = [p for p in files if p.stem.lower().startswith(stem.lower())]
    hint = f"{_names(near)} begins like it: rename it to {stem}{near[0].suffix}" if near else f"Add {stem}.png"
    raise InputError(source.path, f"has no {what} in {folder}", hint)


def core_of(stem: str) -> str:
    """What of a name says which photo it is: ``21_training_mask`` -> ``21``, ``Image_01L_1stHO`` -> ``image_01l``."""
    words = re.split(r"[_\-. ]+", stem.lower())
    while len(words) > 1 and words[-1] in ROLES:
        words.pop()
    return "_".join(words)


def _names(paths: Iterable[Path]) -> str:
    names = [path.name for path in paths]
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")


def places(sources: list[Input], output: str | Path | None) -> tuple[Path, list[Path]]:
    """The folder that all results share, and where each photo's mask goes.

    Raises
    ------
    UsageError
        If ``output`` names one file for several photos or another kind than PNG, or results would meet.
    """
    if output is None:
        targets = output_paths(sources, None, word="mask", suffix=".png")
        return Path(os.path.commonpath([os.path.abspath(t.parent) for t in targets])), targets
    suffix = Path(output).suffix.lower()
    if suffix in PHOTO_SUFFIXES and not str(output).endswith(("/", os.sep)) and not Path(output).is_dir():
        if len(sources) > 1 or sources[0].root is not None:
            raise UsageError(f"-o {output} names one file, but the input is a directory or several. Name a directory.")
        if suffix != ".png":
            raise UsageError(f"-o {output}: masks are PNG files. Name it {Path(output).stem}.png, or a directory.")
        return Path(output).parent, output_paths(sources, output, suffix=".png")
    return Path(output), output_paths(sources, f"{output}{os.sep}", suffix=".mask.png")


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


def task_of(source: Input, target: Path, options: SegmentOptions) -> Task:
    error, found = source.error, None
    if error is None:
        try:
            found = companions(source, options)
        except InputError as missing:
            error = missing
    return Task(source.path, target, source.name, payload=found, error=error)


def keep_what_is_there(tasks: Sequence[Task]) -> None:
    """``UsageError`` if a result would overwrite a photo, a truth or a mask that the user named."""
    given = {os.path.realpath(task.source): task.name for task in tasks}
    for task in tasks:
        if task.payload is not None:
            given |= {os.path.realpath(path): path.name for path in (task.payload.truth, task.payload.fov) if path}
    for task in tasks:
        if task.output is not None:
            for path in (task.output, *side_paths(task.output)):
                if name := given.get(os.path.realpath(path)):
                    raise UsageError(f"a result of {task.name} would overwrite {name}: name another place with -o.")
