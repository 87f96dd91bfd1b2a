"""From what users type to the files to read, and from each file to where its result goes."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError, UsageError, did_you_mean
from .kinds import SUFFIXES, has_dicom_mark, sniff, split_key, suffix_of

EXAMPLES: dict[str, tuple[str, str, str]] = {
    "ct": ("CT slice, 128 x 128, 16 bits (GE)", "pydicom", "data/test_files/CT_small.dcm"),
    "ct-512": ("CT slice, 512 x 512, JPEG 2000 (Hitachi)", "pydicom", "data/test_files/J2K_pixelrep_mismatch.dcm"),
    "mr": ("MR slice, 64 x 64, 16 bits", "pydicom", "data/test_files/MR_small.dcm"),
    "camera": ("photo, 512 x 512, 8 bits", "skimage", "data/camera.png"),
    "coins": ("photo, 303 x 384, 8 bits", "skimage", "data/coins.png"),
    "moon": ("photo, 512 x 512, 8 bits", "skimage", "data/moon.png"),
    "brick": ("texture, 512 x 512, 8 bits", "skimage", "data/brick.png"),
    "grass": ("texture, 512 x 512, 8 bits", "skimage", "data/grass.png"),
    "gravel": ("texture, 512 x 512, 8 bits", "skimage", "data/gravel.png"),
    "cell": ("microscopy, 660 x 550, 8 bits", "skimage", "data/cell.png"),
    "page": ("scanned page, 191 x 384, 8 bits", "skimage", "data/page.png"),
    "text": ("photo of text, 172 x 448, 8 bits", "skimage", "data/text.png"),
    "clock": ("photo with motion blur, 300 x 400, 8 bits", "skimage", "data/clock_motion.png"),
}
"""Files that installed packages ship (nothing is downloaded): name -> (what it is, package, path inside it)."""

PHOTO_EXAMPLES: dict[str, tuple[str, str, str]] = {
    "retina": ("fundus photo, 1411 x 1411, 8 bits, colour", "skimage", "data/retina.jpg"),
}
"""The same for commands that read colour photos."""

WORD = "denoised"
"""Marks results of earlier runs (``scan.denoised.dcm``); a walk passes such files by."""

SIDE_WORDS = ("lowdose", "compare", "sigma", "figure")
"""Mark what comes with a result (``scan.sigma.npy``); passed by where ``scan.*`` is there, too."""

SEGMENT_WORDS = ("mask", "prob", "overlay", "attention", "compare")
"""Mark results of ``attn segment``, which come together (``21.mask.png``, ``21.prob.png``): passed by where ``21.*`` or
another of them is there. A mask alone may be anybody's."""


@dataclass(frozen=True, slots=True)
class Input:
    """One file to process.

    Parameters
    ----------
    path : Path
        Where it is; may end in ``#KEY`` for an array of an NPZ archive.
    name : str
        What reports call it: as the user named it, or its path under the directory they named.
    root : Path or None
        The directory they named; the path below it is mirrored under ``-o``.
    example : bool
        A file of an installed package: its result goes to the current directory.
    error : InputError or None
        Why it cannot be read at all; report it as failed.
    """

    path: Path
    name: str
    root: Path | None = None
    example: bool = False
    error: InputError | None = None


def expand_inputs(
    inputs: Iterable[str], *, suffixes: Collection[str] = tuple(SUFFIXES), stdin: Iterable[str] | None = None
) -> list[Input]:
    """List the files that arguments stand for.

    Parameters
    ----------
    inputs : iterable of str
        Files; directories (searched recursively, in sorted order); glob patterns; ``FILE.npz#KEY``; ``example:NAME``;
        ``-`` for a list of these on standard input, one a line.
    suffixes : collection of str
        What a directory is searched for, lower case. With ``.dcm`` among them, also files without suffix that carry the
        DICOM mark. Hidden files and results of earlier runs are passed by; damaged files of a known suffix are not.
    stdin : iterable of str or None
        Replaces ``sys.stdin``.

    Returns
    -------
    list of Input, each file once. What does not exist is an Input with ``error``, so that the others still run.

    Raises
    ------
    UsageError
        If an example is unknown, or there is nothing at all to read.
    """
    found: list[Input] = []
    empty: list[str] = []
    for text in _lines(inputs, stdin):
        found += _expand(text, suffixes, empty)
    if not found:
        where = f" in {', '.join(empty)}" if empty else ""
        raise UsageError(f"nothing to read{where}: name files or directories that hold {' '.join(suffixes)}")
    found += [Input(Path(d), d, error=InputError(d, "holds no image files", "Name another directory")) for d in empty]
    once: dict[str, Input] = {}
    for item in found:
        once.setdefault(item.name if item.error else os.path.realpath(item.path), item)
    return list(once.values())


def _lines(inputs: Iterable[str], stdin: Iterable[str] | None) -> Iterator[str]:
    """Arguments with ``-`` replaced by the lines of standard input."""
    for text in inputs:
        if text != "-":
            yield text
            continue
        for line in sys.stdin if stdin is None else stdin:
            if line := line.rstrip("\r\n"):
                yield line


def _expand(text: str, suffixes: Collection[str], empty: list[str]) -> list[Input]:
    """The files of one argument; directories without any are added to ``empty``."""
    if text.startswith("example:"):
        return [_example(text)]
    try:
        path = Path(text)
        if path.is_dir():
            files = list(_walk(path, suffixes))
            if not files:
                empty.append(text)
            return files
        if path.exists() or split_key(path)[0].exists():
            return [Input(path, text)]
    except (OSError, ValueError) as error:  # a name too long, a NUL byte, a directory that may not be entered
        return [Input(Path(text), text, error=InputError(text, f"cannot be opened ({error})", "Check the name"))]
    if glob.has_magic(text):
        if matches := sorted(glob.glob(text, recursive=True)):
            return [item for match in matches for item in _expand(match, suffixes, empty)]
        return [Input(path, text, error=InputError(text, "matches no file", "Check the pattern"))]
    return [Input(path, text, error=InputError(text, "does not exist", "Check the name"))]


def _example(text: str) -> Input:
    """The file behind ``example:NAME``."""
    name = text.removeprefix("example:")
    examples = EXAMPLES | PHOTO_EXAMPLES
    if name not in examples:
        hint = did_you_mean(name, examples)
        raise UsageError(f"{text}: no such example. {hint} There are: {', '.join(examples)}".replace("  ", " "))
    _, package, inside = examples[name]
    spec = find_spec(package)  # finds the package without importing it
    places = list(spec.submodule_search_locations or []) if spec else []
    path = Path(places[0], inside) if places else Path(inside)
    error = (
        None if path.exists() else InputError(text, f"is not part of the installed {package}", "Name a file instead")
    )
    return Input(path, text, example=True, error=error)


def _walk(root: Path, suffixes: Collection[str]) -> Iterator[Input]:
    """Files below ``root`` that look like images, in sorted order."""
    problems: list[OSError] = []
    for directory, names, files in os.walk(root, onerror=problems.append):
        names[:] = sorted(name for name in names if not name.startswith("."))
        stems = {name[: len(name) - len(suffix_of(Path(name)))] for name in files}
        for name in sorted(files):
            path = Path(directory, name)
            if not name.startswith(".") and not _is_result(path, stems) and _is_image(path, suffixes):
                yield Input(path, str(path), root)
    for problem in problems:
        place = str(problem.filename)
        error = InputError(place, f"cannot be listed ({problem.strerror})", "Check its permissions")
        yield Input(Path(place), place, root, error=error)


def _is_image(path: Path, suffixes: Collection[str]) -> bool:
    suffix = suffix_of(path)
    if suffix:
        return suffix in suffixes
    return ".dcm" in suffixes and path.name.upper() != "DICOMDIR" and has_dicom_mark(path)


def _is_result(path: Path, stems: Collection[str]) -> bool:
    """Whether an earlier run wrote it; ``stems`` are the names in its directory without their suffixes."""
    whole = path.name if path.name.endswith(f".{WORD}") else path.name[: len(path.name) - len(suffix_of(path))]
    base, _, word = whole.rpartition(".")
    if word == WORD:
        return True
    if word in SEGMENT_WORDS and any(f"{base}.{other}" in stems for other in SEGMENT_WORDS if other != word):
        return True
    return word in (*SIDE_WORDS, *SEGMENT_WORDS) and base in stems


def output_path(
    item: Input, out: str | Path | None, *, word: str = "denoised", single: bool = True, suffix: str | None = None
) -> Path:
    """Where the result of one input goes.

    Parameters
    ----------
    item : Input
    out : str, Path or None
        What ``-o`` names; pass the text as typed, for a ``/`` at its end says directory. None: beside the input as
        ``scan.denoised.dcm`` (``philips`` -> ``philips.denoised``), for an example in the current directory.
        A directory (it exists, ends in ``/``, there are several inputs, or the user named a directory to read): the
        input's own name, below the path that it has under the directory read. Otherwise the result itself.
    word : str
        What distinguishes a result beside its input.
    single : bool
        There is only this input.
    suffix : str or None
        Replaces the input's suffix, for results of another kind.

    Raises
    ------
    UsageError
        If the result would be the input itself, or ``-o`` has the suffix of another kind than the input's.
    """
    file, key = split_key(item.path)
    old = suffix_of(file)
    stem = file.name[: len(file.name) - len(old)] + (f".{key}".replace("/", "_") if key else "")
    name = stem + (old if suffix is None else suffix)
    if out is None:
        target = (Path() if item.example else file.parent) / f"{stem}.{word}{old if suffix is None else suffix}"
    elif not single or item.root is not None or str(out).endswith(("/", os.sep)) or Path(out).is_dir():
        below = file.parent.relative_to(item.root) if item.root is not None else Path()
        target = Path(out) / below / name
    else:
        target = Path(out)
        if suffix is None:
            _check_kind(file, target)
    if os.path.realpath(target) == os.path.realpath(file) or (target.exists() and os.path.samefile(target, file)):
        raise UsageError(f"the result for {item.name} would overwrite it: name another place with -o")
    return target


def _check_kind(file: Path, target: Path) -> None:
    """``UsageError`` if the target's suffix promises another kind than the file's content."""
    try:
        kind = sniff(file)
    except InputError:
        return  # reading reports it
    wanted = SUFFIXES.get(suffix_of(target))
    if wanted is not None and wanted != kind:
        right = next(suffix for suffix, one in SUFFIXES.items() if one == kind)
        raise UsageError(
            f"-o {target}: {file.name} is {kind} and results keep their kind. Name it {target.stem}{right}"
        )


def output_paths(
    items: list[Input], out: str | Path | None, *, word: str = "denoised", suffix: str | None = None
) -> list[Path]:
    """``output_path`` of each input, all different.

    Where inputs from several places would meet in one file under ``-o``, these inputs keep their path below the last
    directory that they have in common (``a/1.dcm b/1.dcm -o out`` -> ``out/a/1.dcm out/b/1.dcm``).

    Raises
    ------
    UsageError
        As ``output_path``; or if two inputs still have the same result.
    """
    single = len(items) == 1
    targets = [output_path(item, out, word=word, single=single, suffix=suffix) for item in items]
    for alike in _collisions(targets):
        folders = [os.path.abspath(items[i].path.parent) for i in alike]
        if out is not None and len(set(folders)) > 1:
            common = Path(os.path.commonpath(folders))
            for i, folder in zip(alike, folders, strict=True):
                targets[i] = Path(out) / Path(folder).relative_to(common) / targets[i].name
    for alike in _collisions(targets):
        names = " and ".join(items[i].name for i in alike[:2])
        raise UsageError(f"{names} would both be written to {targets[alike[0]]}: run them one after the other")
    inputs = {os.path.realpath(split_key(item.path)[0]): item.name for item in items}
    for target in targets:
        if clash := inputs.get(os.path.realpath(target)):
            raise UsageError(f"a result would overwrite the input {clash}: name another place with -o")
    return targets


def _collisions(targets: list[Path]) -> list[list[int]]:
    """Positions of targets that are the same file, per file."""
    places: dict[str, list[int]] = {}
    for i, target in enumerate(targets):
        places.setdefault(os.path.realpath(target), []).append(i)
    return [alike for alike in places.values() if len(alike) > 1]
