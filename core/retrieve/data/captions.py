"""Images with captions, in the JSON files that data sets come in: each becomes a list of ``Captioned``.

Formats: methods/ga-dms.md, section 5 (persons), methods/priorclip.md, section 5 (remote sensing),
methods/retrieval-peers.md, section 6 (Karpathy). Training reads the same lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.records import identifier, json_file, json_lines, objects, string_list, text_field

RESEARCH = "For research only, by agreement with its authors; shows persons: do not pass it on."
LICENCES = {
    "cuhk-pedes": f"CUHK-PEDES: {RESEARCH}",
    "icfg-pedes": f"ICFG-PEDES: {RESEARCH}",
    "rstpreid": f"RSTPReid: {RESEARCH}",
    "webperson": "WebPerson: photos from the web keep their owners' rights; shows persons.",
    "pir": "RSICD and RSITMD: public, for research.",
    "priorclip": "RSICD and RSITMD: public, for research.",
}
"""What is known of the terms of each kind; others say it in their files or not at all."""


@dataclass(frozen=True, slots=True)
class Captioned:
    """An image and the texts that describe it.

    Parameters
    ----------
    image : str
        Path as the file gives it, relative to the folder of images.
    captions : tuple of str
    identity : str
        A caption is true of every image with its identity: a person's number, or the image itself.
    split : str
        Empty where the format has none.
    place : str
        Where it stands in the file (``"entry 3"``).
    licence, source : str
        Of this image, where the file says it.
    """

    image: str
    captions: tuple[str, ...]
    identity: str
    split: str = ""
    place: str = ""
    licence: str = ""
    source: str = ""


def read_karpathy(path: Path, value: Any) -> Iterator[Captioned]:
    """{"images": [{"filename", "filepath"?, "split", "sentences": [{"raw"}]}]}."""
    for place, record in objects(path, value.get("images"), "'images'"):
        image = identifier(path, place, record, "filename")
        if folder := text_field(path, place, record, "filepath"):
            image = f"{folder.rstrip('/')}/{image}"
        sentences = record.get("sentences")
        raws = (
            [sentence.get("raw") if isinstance(sentence, dict) else sentence for sentence in sentences]
            if isinstance(sentences, list)
            else 0
        )
        if not isinstance(raws, list) or not all(isinstance(raw, str) for raw in raws):
            what = f"{place} has no list 'sentences' of objects with 'raw'"
            raise InputError(path, what, 'Write "sentences": [{"raw": "..."}]')
        captions = string_list(path, place, {"sentences": raws}, "sentences")
        yield Captioned(image, tuple(captions), image, text_field(path, place, record, "split") or "", place)


def read_priorclip(path: Path, value: Any) -> Iterator[Captioned]:
    """As ``read_karpathy``, the first letter of each caption upper-cased and the images sorted by name."""
    for picture in sorted(read_karpathy(path, value), key=lambda item: item.image):
        captions = tuple(caption[:1].upper() + caption[1:] for caption in picture.captions)
        yield Captioned(picture.image, captions, picture.identity, picture.split, picture.place)


def read_person(path: Path, value: Any) -> Iterator[Captioned]:
    """CUHK-PEDES and ICFG-PEDES ("file_path"), RSTPReid ("img_path"): [{split, captions, id, path}]."""
    for place, record in objects(path, value):
        image = identifier(path, place, record, "file_path", "img_path")
        captions = tuple(string_list(path, place, record, "captions"))
        split = text_field(path, place, record, "split") or ""
        yield Captioned(image, captions, identifier(path, place, record, "id"), split, place)


def read_webperson(path: Path, value: Any) -> Iterator[Captioned]:
    """[{image: {"caption1", "caption2"}}]; every image is an identity of its own."""
    for place, record in objects(path, value):
        for image, texts in record.items():
            if not isinstance(texts, dict):
                what = f"{place}: {image!r} has no object with 'caption1', 'caption2'"
                raise InputError(path, what, 'Write {"image.jpg": {"caption1": "...", "caption2": "..."}}')
            names = sorted(name for name in texts if name.startswith("caption"))
            if not names:
                raise InputError(path, f"{place}: {image!r} has no 'caption1'", "Add a caption")
            captions = tuple(string_list(path, place, texts, name)[0] for name in names)
            yield Captioned(identifier(path, place, {"image": image}, "image"), captions, image, "", place)


def read_pir(path: Path, value: Any) -> Iterator[Captioned]:
    """Evaluation lists [{image, caption: [...]}] and training lists with one caption an entry."""
    for place, record in objects(path, value):
        image = identifier(path, place, record, "image")
        yield Captioned(image, tuple(string_list(path, place, record, "caption")), image, "", place)


def read_generic(path: Path) -> Iterator[Captioned]:
    """JSONL {image, captions, id?, split?}; other fields are passed by, ``license`` and ``source`` noted."""
    for place, record in json_lines(path):
        image = identifier(path, place, record, "image", "file_name", "file")
        name = "captions" if "captions" in record or "caption" not in record else "caption"
        captions = tuple(string_list(path, place, record, name))
        identity = identifier(path, place, record, "id") if "id" in record else image
        split = text_field(path, place, record, "split") or ""
        licence = record.get("license") or record.get("licence")
        source = record.get("source") or record.get("flickr_url")
        about = (value if isinstance(value, str) else "" for value in (licence, source))
        yield Captioned(image, captions, identity, split, place, *about)


def recognise(path: Path, value: Any) -> str:
    """The kind of a JSON file by what is in it. Raises ``InputError`` if it is none that is known.

    PriorCLIP's files look like Karpathy's: they are read as such unless the user says ``priorclip``.
    """
    if isinstance(value, dict) and isinstance(value.get("images"), list):
        return "karpathy"
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(value, list) and not value:
        raise InputError(path, "is an empty list", "Name a file with images and captions")
    if isinstance(first, dict):
        if "img_path" in first:
            return "rstpreid"
        if "file_path" in first:
            return "icfg-pedes" if "icfg" in path.name.lower() else "cuhk-pedes"
        if "image" in first and "caption" in first:
            return "pir"
        if first and all(
            isinstance(entry, dict) and any(key.startswith("caption") for key in entry) for entry in first.values()
        ):
            return "webperson"
    raise InputError(path, "has the form of no known data set", "Say what it is with --kind, or write JSONL lines")


READERS = {
    "karpathy": read_karpathy,
    "priorclip": read_priorclip,
    "cuhk-pedes": read_person,
    "icfg-pedes": read_person,
    "rstpreid": read_person,
    "webperson": read_webperson,
    "pir": read_pir,
}
"""Kind -> reader of its JSON value."""


def read_captioned(path: Path, kind: str | None = None) -> tuple[str, list[Captioned]]:
    """The kind and all entries of a file of images with captions.

    Parameters
    ----------
    path : Path
        A ``.jsonl`` file (also packed) in the generic format, or a JSON file of one of ``READERS``.
    kind : str, optional
        By default told by name and content.

    Raises
    ------
    InputError
        If the file is malformed or empty; it names the line or entry.
    """
    if kind == "captions" or (kind is None and path.name.endswith((".jsonl", ".jsonl.gz"))):
        kind, captioned = "captions", list(read_generic(path))
    else:
        value = json_file(path)
        kind = kind or recognise(path, value)
        if kind in ("karpathy", "priorclip") and not isinstance(value, dict):
            raise InputError(path, "is no object with 'images'", 'Write {"images": [...]}')
        captioned = list(READERS[kind](path, value))
    if not captioned:
        raise InputError(path, "holds no images", "Name a file with images and captions")
    return kind, captioned
