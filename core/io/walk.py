"""From what users type to the files to read, and from each file to where its result goes."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError, did_you_mean
from .atomic import place_fault
from .kinds import HEAD, SUFFIXES, is_dicom, is_dicomdir, open_regular, sniff, split_key, suffix_of

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
    "photo": ("photo of an astronaut, 512 x 512, 8 bits, colour", "skimage", "data/astronaut.png"),
}
"""The same for commands that read colour photos."""

WORD = "denoised"
"""Marks results of earlier runs (``scan.denoised.dcm``); a walk passes such files by."""

SIDE_WORDS = (
    "lowdose", "truth", "compare", "sigma", "maps", "figure", "kept", "crop",
    "vit", "distance", "relevance", "contrast", "classify", "collapse", "filters", "difference",
    "dilution", "scanpath", "path",
)  # fmt: skip
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
        A file of an installed package, or one that was made for this run: its result goes to the current directory.
    error : InputError or None
        Why it cannot be read at all; report it as failed.
    """

    path: Path
    name: str
    root: Path | None = None
    example: bool = False
    error: InputError | None = None


Schemes = Mapping[str, Callable[[str], list[Input]]]
"""By what stands before the colon: who makes the files that ``SCHEME:...`` names. Raises ``UsageError`` if none are."""


class Passed:
    """What was passed by, counted and named: nothing that was in a folder is left out in silence."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, why: str, name: str) -> None:
        """Note one file; ``why`` is a plural, such as ``"files of an unknown suffix"``."""
        self._found.setdefault(why, []).append(name)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per reason, as reports hold them under ``skipped_files``: ``why``, ``files``, ``names``."""
        return [
            {
                "why": why,
                "files": len(names),
                "names": ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else ""),
            }
            for why, names in self._found.items()
        ]


NAMED = 3
"""So many of the files that were passed by are named."""


def read_list(stdin: Any = None, *, nul: bool = False) -> list[str]:
    """The names on standard input, one a line.

    Parameters
    ----------
    stdin : binary or text stream, or list of str, optional
        Instead of ``sys.stdin``. A text stream with a buffer is read as bytes, so that names that are no UTF-8 arrive.
        A list holds the names as they are.
    nul : bool
        NUL separates the names, as in ``find -print0``: a name may then hold a line end.

    Returns
    -------
    list of str, as ``os.fsdecode`` gives them. Empty lines are left out.

    Raises
    ------
    UsageError
        If standard input is closed, or the list is separated by NUL and ``nul`` is false, or it is UTF-16.
    """
    stream = sys.stdin if stdin is None else stdin
    if stream is None:
        raise UsageError("- reads a list from standard input, which is closed.")
    if isinstance(stream, (list, tuple)):
        return [name for name in stream if name]
    stream = getattr(stream, "buffer", stream)
    read = stream.read()
    data = read if isinstance(read, bytes) else os.fsencode(read)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError("the list on standard input is UTF-16. Save it as UTF-8.")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not nul and b"\0" in data:
        raise UsageError("the list on standard input is separated by NUL, not by lines. Add -0.")
    lines = data.split(b"\0") if nul else [line.rstrip(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(line) for line in lines if line.strip(b"\n" if nul else b"")]


def expand_inputs(
    inputs: Iterable[str],
    *,
    suffixes: Collection[str] = tuple(SUFFIXES),
    stdin: Any = None,
    output: str | Path | None = None,
    passed: Passed | None = None,
    schemes: Schemes | None = None,
) -> list[Input]:
    """List the files that arguments stand for.

    Parameters
    ----------
    inputs : iterable of str
        Files; directories (searched recursively, in sorted order, links to folders once and after the rest); glob
        patterns; ``FILE.npz#KEY``; ``example:NAME``; ``-`` for a list of these on standard input (``read_list``).
    suffixes : collection of str
        What a directory is searched for, lower case. With ``.dcm`` among them, also files of any name whose bytes are
        DICOM. Hidden files and folders and results of earlier runs are passed by; damaged files of a known suffix are
        not.
    stdin : stream or list of str, optional
        Replaces ``sys.stdin``.
    output : str, Path or None
        Where results go: a folder in a directory that is searched is no input.
    passed : Passed, optional
        Told what was passed by.
    schemes : mapping of str to callable, optional
        For what a command makes itself: ``schemes["phantom"](text)`` is asked for the files that ``phantom:...`` names.

    Returns
    -------
    list of Input, each file once. What does not exist is an Input with ``error``, so that the others still run.

    Raises
    ------
    UsageError
        If an example is unknown, standard input is no list, or there is nothing at all to read.
    """
    passed = Passed() if passed is None else passed
    listed: list[Input] = []
    empty: list[str] = []
    search = _Search(frozenset(suffixes), _identity(output), passed, schemes or {})
    for text in _words(inputs, stdin):
        listed += _expand(text, search, empty)
    if not listed:
        where = f" in {', '.join(empty)}" if empty else ""
        left = "".join(f". Passed by, {row['why']}: {row['files']} ({row['names']})" for row in passed.rows())
        raise UsageError(f"nothing to read{where}: name files or directories that hold {' '.join(suffixes)}{left}")
    listed += [Input(Path(d), d, error=InputError(d, "holds no image files", "Name another directory")) for d in empty]
    once: dict[str, Input] = {}
    for item in listed:
        first = once.setdefault(item.name if item.error else _real(item.path), item)
        if os.path.abspath(first.path) != os.path.abspath(item.path):
            passed.add("other names of files that are read already", item.name)
    return list(once.values())


def _words(inputs: Iterable[str], stdin: Any) -> Iterator[str]:
    """Arguments with ``-`` replaced by the list on standard input."""
    for text in inputs:
        if text == "-":
            yield from read_list(stdin)
        else:
            yield text


@dataclass(frozen=True, slots=True)
class _Search:
    """What a directory is searched for, the folder that is not searched (its device and inode), who is told; and who
    makes what is no file yet."""

    suffixes: frozenset[str]
    output: tuple[int, int] | None
    passed: Passed
    schemes: Schemes


def _identity(path: str | Path | None) -> tuple[int, int] | None:
    """Device and inode of a directory; None where there is none."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _expand(text: str, search: _Search, empty: list[str]) -> list[Input]:
    """The files of one argument; directories without any are added to ``empty``."""
    scheme, colon, _ = text.partition(":")
    if colon and scheme == "example":
        return [_example(text)]
    if colon and scheme in search.schemes:
        return search.schemes[scheme](text)
    if not text:  # Path("") would be the current directory
        return [Input(Path("(empty)"), "(empty)", error=InputError("(empty)", "is an empty name", "Check the command"))]
    try:
        path = Path(text)
        if path.is_dir():
            files = list(_walk(path, search))
            if not files:
                empty.append(text)
            return files
        if path.exists() or split_key(path)[0].exists():
            return [Input(path, text)]
        if glob.has_magic(text):
            if matches := sorted(glob.glob(text, recursive=True)):
                return [item for match in matches for item in _expand(match, search, empty)]
            return [Input(path, text, error=InputError(text, "matches no file", "Check the pattern"))]
    except (OSError, ValueError) as error:  # a name too long, a NUL byte, a directory that may not be entered
        reason = getattr(error, "strerror", None) or error
        return [Input(Path(text), text, error=InputError(text, f"cannot be opened ({reason})", "Check the name"))]
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


def _walk(root: Path, search: _Search) -> Iterator[Input]:
    """Files below ``root`` that look like images, in sorted order; what links to folders lead to comes last."""
    problems: list[OSError] = []
    seen: set[tuple[int, int] | None] = set()
    waiting = [root]
    while waiting:
        start = waiting.pop(0)
        for directory, names, files in os.walk(start, onerror=problems.append):
            here = _identity(directory)
            if here in seen or (here == search.output and directory != str(root)):
                names.clear()
                if here in seen:
                    search.passed.add("links to folders that are read already", directory)
                else:
                    search.passed.add("folders of results (-o)", directory)
                continue
            seen.add(here)
            for name in sorted(names + files):
                if name.startswith("."):
                    search.passed.add("hidden files and folders", str(Path(directory, name)))
            shown = sorted(name for name in names if not name.startswith("."))
            names[:] = [name for name in shown if not os.path.islink(os.path.join(directory, name))]
            waiting += [Path(directory, name) for name in shown if name not in names]
            stems = {split_suffix(name)[0] for name in files}
            for name in sorted(files):
                path = Path(directory, name)
                if name.startswith("."):
                    continue
                if why := _passed_by(path, stems | set(files), search.suffixes):
                    search.passed.add(why, str(path))
                else:
                    yield Input(path, str(path), root)
    for problem in problems:
        place = str(problem.filename)
        error = InputError(place, f"cannot be listed ({problem.strerror})", "Check its permissions")
        yield Input(Path(place), place, root, error=error)


def _passed_by(path: Path, names: Collection[str], suffixes: Collection[str]) -> str:
    """Why a file of a directory is no input; empty where it is one."""
    if _is_result(path, names):
        return "results of earlier runs"
    suffix = suffix_of(path)
    if suffix in suffixes:
        return ""
    unknown = "files of an unknown suffix" if suffix else "files without suffix that are no DICOM"
    if ".dcm" not in suffixes:
        return unknown
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
    except (InputError, OSError):
        return "files that cannot be opened"
    if path.name.upper() == "DICOMDIR" or is_dicomdir(head):
        return "DICOMDIR files, which hold no image"
    return "" if is_dicom(head) else unknown


def _is_result(path: Path, stems: Collection[str]) -> bool:
    """Whether an earlier run wrote it; ``stems`` are the names in its directory, with and without their suffixes."""
    whole = path.name if path.suffix[1:] in (WORD, *SIDE_WORDS) else split_suffix(path.name)[0]
    base, _, word = whole.rpartition(".")
    if word == WORD:
        return True
    if word in SEGMENT_WORDS and any(f"{base}.{other}" in stems for other in SEGMENT_WORDS if other != word):
        return True
    return word in (*SIDE_WORDS, *SEGMENT_WORDS) and base in stems


PICTURES = frozenset(
    ".jpg .jpeg .jfif .gif .bmp .webp .jp2 .avif .heic .jxl .pdf .svg .nrrd .mha .h5 .hdf5 .mat .json .csv".split()
)
"""Suffixes of files that nobody means as the name of a directory."""


def names_file(out: str | Path, written: Collection[str] = tuple(SUFFIXES)) -> bool:
    """Whether ``-o`` names the result itself: it ends in a suffix that is written, and is no directory.

    Raises
    ------
    UsageError
        If it ends in the suffix of another kind of file.
    """
    path = Path(out)
    if str(out).endswith(("/", os.sep)) or os.path.isdir(path):
        return False
    if (suffix := suffix_of(path)) in written:
        return True
    if suffix in (PICTURES | set(SUFFIXES)):
        raise UsageError(
            f"-o {out}: results are written as {', '.join(written)}, not as {suffix}. Name it so, or a directory."
        )
    return False


def output_path(
    item: Input,
    out: str | Path | None,
    *,
    word: str = "denoised",
    single: bool = True,
    suffix: str | None = None,
    written: Collection[str] = tuple(SUFFIXES),
    whole: bool = False,
) -> Path:
    """Where the result of one input goes.

    Parameters
    ----------
    item : Input
    out : str, Path or None
        What ``-o`` names; pass the text as typed, for a ``/`` at its end says directory. None: beside the input as
        ``scan.denoised.dcm`` (``philips`` -> ``philips.denoised``), for an example in the current directory.
        A directory, however many inputs there are: the input's own name, below the path that it has under the
        directory read. With a suffix that is ``written``, and one file to read: the result itself.
    word : str
        What distinguishes a result beside its input.
    single : bool
        There is only this input.
    suffix : str or None
        Replaces the input's suffix, for results of another kind.
    written : collection of str
        Suffixes of results.
    whole : bool
        Keep the input's suffix before ``suffix``: ``eye.jpg.mask.png``.

    Raises
    ------
    UsageError
        If the result would be the input itself; ``-o`` has the suffix of another kind than the input's, or names one
        file for several inputs, or a directory where a file is.
    """
    file, key = split_key(item.path)
    stem, old = split_suffix(file.name)
    stem += f".{key}".replace("/", "_").replace("\0", "_") if key else ""
    ending = old if suffix is None else (old if whole else "") + suffix
    if out is None:
        beside = f"{stem}{old}.{word}{suffix}" if whole and suffix is not None else f"{stem}.{word}{ending}"
        target = (Path() if item.example else file.parent) / beside
    elif names_file(out, written):
        if not single or item.root is not None:
            raise UsageError(f"-o {out} names one file, but the input is a directory or several. Name a directory.")
        target = Path(out)
        if suffix is None:
            _check_kind(file, target)
    else:
        below = file.parent.relative_to(item.root) if item.root is not None else Path()
        target = Path(out) / below / f"{stem}{ending}"
    if _real(target) == _real(file) or _same(target, file):
        raise UsageError(f"the result for {item.name} would overwrite it: name another place with -o")
    return target


def split_suffix(name: str) -> tuple[str, str]:
    """A file's name in two, the suffix as it is written there: ``("v", ".nii.gz")``, ``("IM.0001", "")``."""
    length = len(name) - len(suffix_of(Path(name)))
    return name[:length], name[length:]


def _real(path: Path) -> str:
    """The path without links, as far as it can be followed."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # a NUL byte
        return os.path.abspath(path)


def _same(first: Path, other: Path) -> bool:
    try:
        return os.path.samefile(first, other)
    except (OSError, ValueError):  # one of them does not exist, or cannot
        return False


def _check_kind(file: Path, target: Path) -> None:
    """``UsageError`` if the target's suffix promises another kind than the file's content."""
    try:
        kind = sniff(file)
    except InputError:
        return  # reading reports it
    wanted = SUFFIXES.get(suffix_of(target))
    if wanted is not None and wanted != kind:
        right = next(suffix for suffix, known in SUFFIXES.items() if known == kind)
        raise UsageError(
            f"-o {target}: {file.name} is {kind} and results keep their kind. Name it {target.stem}{right}"
        )


def output_paths(
    items: list[Input],
    out: str | Path | None,
    *,
    word: str = "denoised",
    suffix: str | None = None,
    written: Collection[str] = tuple(SUFFIXES),
) -> list[Path]:
    """``output_path`` of each input, all different.

    Where inputs from several places would meet in one file under ``-o``, these inputs keep their path below the last
    directory that they have in common (``a/1.dcm b/1.dcm -o out`` -> ``out/a/1.dcm out/b/1.dcm``). Where inputs that
    differ in their suffix would meet, they keep it (``eye.jpg eye.png`` -> ``eye.jpg.mask.png eye.png.mask.png``).

    Raises
    ------
    UsageError
        As ``output_path``; if two inputs still have the same result; if ``-o`` is no place to write to.
    """
    if out is not None and (fault := place_fault(out if names_file(out, written) else Path(out, "name"))):
        raise UsageError(f"-o {out}: {fault}.")
    single = len(items) == 1

    def target_of(item: Input, whole: bool) -> Path:
        return output_path(item, out, word=word, single=single, suffix=suffix, written=written, whole=whole)

    targets = [target_of(item, False) for item in items]
    for alike in _collisions(targets):
        folders = [os.path.abspath(items[i].path.parent) for i in alike]
        if out is not None and len(set(folders)) > 1:
            common = Path(os.path.commonpath(folders))
            for i, folder in zip(alike, folders, strict=True):
                targets[i] = Path(out) / Path(folder).relative_to(common) / targets[i].name
    for alike in _collisions(targets) if suffix is not None else ():
        for i in alike:
            targets[i] = targets[i].with_name(target_of(items[i], True).name)
    for alike in _collisions(targets):
        names = " and ".join(items[i].name for i in alike[:2])
        raise UsageError(f"{names} would both be written to {targets[alike[0]]}: run them one after the other")
    inputs = {_real(split_key(item.path)[0]): item.name for item in items}
    for target in targets:
        if clash := inputs.get(_real(target)):
            raise UsageError(f"a result would overwrite the input {clash}: name another place with -o")
    return targets


def _collisions(targets: list[Path]) -> list[list[int]]:
    """Positions of targets that are the same file, per file."""
    places: dict[str, list[int]] = {}
    for i, target in enumerate(targets):
        places.setdefault(_real(target), []).append(i)
    return [alike for alike in places.values() if len(alike) > 1]
