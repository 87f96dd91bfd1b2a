"""Data sets to evaluate on, told by content and read into one form: ``read_dataset(path) -> EvalSet``.

Kinds: methods/retrieval-peers.md, section 6; methods/ga-dms.md, section 5; methods/priorclip.md, section 5.
Sets of images with captions ask with the captions and find images; ``EvalSet.reversed`` is the other direction.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from ...errors import InputError, UsageError, did_you_mean
from ...options import OptionError
from .beir import choose_split, find, read_beir
from .captions import LICENCES, READERS, Captioned, read_captioned
from .evalset import Content, EvalSet, counted, empty_texts, repeated_texts
from .mteb import is_mteb, read_mteb

__all__ = ["KINDS", "Captioned", "Content", "EvalSet", "image_root", "read_captioned", "read_dataset"]

KINDS = ("beir", "mteb", "captions", *READERS)
"""Formats of data sets; ``captions`` is our own JSONL {image, captions, id?, split?}."""

_FILES = ("captions.jsonl", "reid_raw.json", "ICFG-PEDES.json", "data_captions.json")


def read_dataset(
    path: str | Path, *, kind: str | None = None, split: str | None = None, images: str | Path | None = None
) -> EvalSet:
    """Read a data set.

    Parameters
    ----------
    path : str or Path
        A BEIR or MTEB folder, a JSON or JSONL file of images with captions, or a folder that holds one such file.
    kind : str, optional
        One of ``KINDS``; by default told by content.
    split : str, optional
        By default ``test``, or the only one there is. Formats without splits are read whole.
    images : str or Path, optional
        Folder that image paths are relative to; by default ``imgs/`` or ``images/`` beside the file, or its own folder,
        whichever holds the first image.

    Returns
    -------
    EvalSet
        Documents are texts or images; queries are texts, in MTEB perhaps images. Images are named by their path in the
        file, captions by image and number (``0042.jpg#3``). A caption's relevant images are those of its identity.

    Raises
    ------
    InputError
        If it cannot be read, is of no known format, or is malformed: with line or entry.
    UsageError
        If the kind is unknown, or there is no such split.
    """
    path = Path(path)
    if kind is not None and kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise UsageError(f"no data set format named {kind!r}. {hint} There are: {', '.join(KINDS)}".replace("  ", " "))
    if not path.exists():
        raise InputError(path, "does not exist", "Check the name")
    if path.is_dir():
        readers = {"beir": read_beir, "mteb": read_mteb}
        if kind is None and (find(path, "corpus.jsonl") or is_mteb(path)):
            kind = "beir" if find(path, "corpus.jsonl") else "mteb"
        if kind in readers:
            if images is not None:
                raise OptionError(
                    f"{{images}} {images}: {path} holds its documents itself ({kind.upper()}). Leave it out."
                )
            return readers[kind](path, split)
        path = _file_of(path)
    elif kind in ("beir", "mteb"):
        raise InputError(path, "is a file", f"Name the {kind.upper()} folder with corpus, queries and qrels")
    kind, captioned = read_captioned(path, kind)
    return _as_set(path, kind, captioned, split, images)


def _file_of(folder: Path) -> Path:
    """The one file in a folder that describes its images."""
    known = [path for name in _FILES if (path := find(folder, name))]
    listed = known or sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jsonl") and p.name[0] != ".")
    if len(listed) == 1:
        return listed[0]
    if not listed:
        raise InputError(folder, "holds no data set", "A BEIR folder has corpus.jsonl; others a .json or .jsonl file")
    names = ", ".join(path.name for path in listed[:5])
    raise InputError(folder, f"holds several files that may be the data set ({names})", "Name the file itself")


def image_root(path: Path, first: str, images: str | Path | None = None) -> Path:
    """The folder that image paths of the file ``path`` are relative to, judged by its first image."""
    if images is not None:
        return Path(images)
    places = (path.parent / "imgs", path.parent / "images", path.parent)
    return next((place for place in places if os.path.isfile(place / first)), path.parent)


def _as_set(path: Path, kind: str, captioned: list[Captioned], split: str | None, images: str | Path | None) -> EvalSet:
    """Captions as queries, images as documents, of one split."""
    parts = Counter(picture.split for picture in captioned)
    warnings: list[str] = []
    if set(parts) == {""}:
        chosen = ""
        if split is not None:
            warnings.append(f"the file has no splits: all of it was read, not {split!r}")
    else:
        chosen = choose_split(path, split, sorted(part for part in parts if part))
        if parts[""]:
            warnings.append(counted(parts[""], "entry has", "entries have") + " no split: left out")
        captioned = [picture for picture in captioned if picture.split == chosen]
    merged = _merged(path, captioned)
    if joined := len(captioned) - len(merged):
        warnings.append(counted(joined, "entry repeats", "entries repeat") + " an image: its captions were joined")
    if images is not None and not os.path.isdir(images):
        raise OptionError(f"{{images}} {images}: no such folder. Name the folder that the paths of images start from.")
    root = image_root(path, captioned[0].image, images)
    documents = {image: root / image for image in merged}
    missing = [image for image, place in documents.items() if not os.path.isfile(place)]
    if missing:
        warnings.append(
            counted(len(missing), "image is", "images are")
            + f" not there (such as {documents[missing[0]]}): name their folder with --images"
        )
    bare = sum(not captions for _, captions in merged.values())
    if bare:
        warnings.append(counted(bare, "image has", "images have") + " no caption: nothing asks for it")
    members: dict[str, list[str]] = {}
    for image, (identity, _) in merged.items():
        members.setdefault(identity, []).append(image)
    queries: dict[str, str] = {}
    owner: dict[str, str] = {}
    for image, (identity, captions) in merged.items():
        for number, caption in enumerate(captions):
            queries[f"{image}#{number}"] = caption
            owner[f"{image}#{number}"] = identity
    if not queries:
        raise InputError(path, "holds no captions", "Name a file with images and captions")
    relevant = {identity: dict.fromkeys(images, 1) for identity, images in members.items()}  # shared by its captions
    qrels = {query: relevant[identity] for query, identity in owner.items()}
    warnings += empty_texts(queries.values(), "caption") + repeated_texts(queries, owner)
    return EvalSet(
        path.stem, kind, chosen, dict[str, Content](documents), dict[str, Content](queries), qrels, tuple(warnings),
        _licence(kind, captioned),
    )  # fmt: skip


def _merged(path: Path, captioned: list[Captioned]) -> dict[str, tuple[str, list[str]]]:
    """Image -> identity and all its captions. Raises ``InputError`` if an image has two identities."""
    merged: dict[str, tuple[str, list[str]]] = {}
    for picture in captioned:
        identity, captions = merged.setdefault(picture.image, (picture.identity, []))
        if identity != picture.identity:
            what = f"{picture.place}: image {picture.image!r} has the id {picture.identity!r}, but {identity!r} before"
            raise InputError(path, what, "An image shows one identity: rename the file or correct the id")
        captions.extend(picture.captions)
    return merged


def _licence(kind: str, captioned: list[Captioned]) -> str:
    """What the data set's authors allow, or the licences of the single images with their counts."""
    each = Counter(picture.licence for picture in captioned if picture.licence)
    if each:
        return "Images: " + ", ".join(f"{name} ({count})" for name, count in each.most_common())
    return LICENCES.get(kind, "")
