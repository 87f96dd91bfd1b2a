"""`attn retrieve curate` on planted faults: what its filters find, and which planted noise words survive its templates.

    python tests/benchmarks/curate_planted.py --seeds 11 12 13                    # drawn people
    python tests/benchmarks/curate_planted.py --seeds 11 12 13 --photos DATA/image_text/images

The second takes tall parts of real photos in the place of drawn people (their captions stay those of drawn people).
Thresholds were looked at on seed 1. Prints the tables of retrieve.md.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from attn.core.progress import Silent
from attn.core.retrieve.curate.phrases import parse
from attn.core.retrieve.gadms.people import FILLERS, KINDS, describe, draw_person
from attn.core.retrieve.options.curate import CurateOptions
from attn.core.retrieve.verbs.curate import curate

SIZE = (288, 112)
EACH = 12
"""Faults of each kind."""
SAID: dict[bytes, str] = {}
"""What the captioner says of a picture."""


def caption(picture: Image.Image) -> str:
    return SAID[picture.tobytes()]


def blurred(sigma: float):
    return lambda image, rng: image.filter(ImageFilter.GaussianBlur(sigma))


def recompressed(image, rng):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file)


def shifted(image, rng):
    """Two per cent of each side are cut off, at one end."""
    width, height = image.size
    return image.crop((width // 50, height // 50, width, height))


PLANTS = {
    "blur, sigma 2 px": ("blurred", blurred(2)),
    "blur, sigma 3 px": ("blurred", blurred(3)),
    "blur, sigma 5 px": ("blurred", blurred(5)),
    "copy, JPEG quality 50": ("duplicate", recompressed),
    "copy, 0.9 of its size": ("duplicate", lambda image, rng: image.resize([round(0.9 * s) for s in image.size])),
    "copy, 0.8 of its brightness": ("duplicate", lambda image, rng: ImageEnhance.Brightness(image).enhance(0.8)),
    "copy, 2 % cut off": ("duplicate", shifted),
    "copy, mirrored": ("duplicate", lambda image, rng: ImageOps.mirror(image)),
    "60 pixels wide": ("small", lambda image, rng: image.resize((60, 154))),
    "turned by 90 degrees": ("shape", lambda image, rng: image.rotate(90, expand=True)),
    "one colour": ("blank", lambda image, rng: Image.new("RGB", image.size, tuple(rng.integers(0, 256, 3).tolist()))),
}  # fmt: skip

KINDS_OF = {**PLANTS, "file cut off": ("broken", None)}


def drawn(rng: np.random.Generator, count: int) -> list[tuple[dict[str, str], Image.Image]]:
    people = [{kind: str(rng.choice(values)) for kind, values in KINDS.items()} for _ in range(count)]
    return [(person, Image.fromarray(draw_person(person, rng, SIZE).transpose(1, 2, 0))) for person in people]


def cut(rng: np.random.Generator, photos: Path, count: int) -> list[Image.Image]:
    """Tall parts of photos, one of each."""
    files = sorted(photos.iterdir())
    parts = []
    for file in rng.permutation(np.array(files, object))[:count]:
        image = Image.open(file).convert("RGB")
        height = image.height * float(rng.uniform(0.8, 1))
        width = height / 2.5
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        parts.append(image.crop([round(x) for x in (left, top, left + width, top + height)]).resize(SIZE[::-1]))
    return parts


def plant(folder: Path, seed: int, count: int, photos: Path | None) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Crops and their faults in a folder; the fault of each file (empty: none), and the attributes of each person."""
    rng = np.random.default_rng(seed)
    people = drawn(rng, count)
    images = [image for _, image in people] if photos is None else cut(rng, photos, count)
    faults, attributes = {}, {}
    for number, image in enumerate(images):
        name = f"a{number:04d}.png"
        image.save(folder / name)
        SAID[image.tobytes()] = describe(people[number][0], rng, 0.2, 3)[0]
        faults[name], attributes[name] = "", people[number][0]
    for kind, (_, change) in PLANTS.items():
        for number in rng.permutation(len(images))[:EACH]:
            name = f"b{len(faults):04d}.png"
            changed = change(images[number], rng).convert("RGB")
            changed.save(folder / name)
            SAID[changed.tobytes()] = SAID[images[number].tobytes()]
            faults[name], attributes[name] = kind, attributes[f"a{number:04d}.png"]
    for number in range(EACH):
        whole = (folder / f"a{number:04d}.png").read_bytes()
        (folder / f"c{number:04d}.png").write_bytes(whole[: int(len(whole) * rng.uniform(0, 0.9))])
        faults[f"c{number:04d}.png"] = "file cut off"
    return faults, attributes


def rates(texts: list[tuple[dict[str, str], str]]) -> Counter[str]:
    """Words, fillers, and attributes that are said rightly, wrongly or not."""
    slots = {"hair": "hair", "top": "upper", "bottom": "lower", "shoes": "shoes", "bag": "bag"}
    found: Counter[str] = Counter()
    for attributes, text in texts:
        words = text.lower().split()
        values = parse(text).values
        found["words"] += len(words)
        found["fillers"] += sum(word in FILLERS for word in words)
        for kind, slot in slots.items():
            first = values.get(slot, "").partition(" ")[0]
            found["said" if first in KINDS[kind] else "unsaid"] += 1
            found["wrong"] += first in KINDS[kind] and first != attributes[kind]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--people", type=int, default=150)
    parser.add_argument("--photos", type=Path)
    given = parser.parse_args()
    hits: Counter[tuple[str, str]] = Counter()
    planted: Counter[str] = Counter()
    words: dict[str, Counter[str]] = {}
    for seed in given.seeds:
        SAID.clear()
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, "crops")
            folder.mkdir()
            faults, attributes = plant(folder, seed, given.people, given.photos)
            ways = {"6 a cluster": {}, "central only": {"random_each": 0}}
            for way, more in ways.items():
                out = Path(place, way)
                options = CurateOptions(captioner="__main__:caption", fill="words", seed=seed, **more)
                report = curate([str(folder)], out, options, watcher=Silent())
                pairs = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
                kept = [Path(pair["image"]).name for pair in pairs]
                before = [(attributes[name], SAID[Image.open(folder / name).convert("RGB").tobytes()]) for name in kept]
                after = [
                    (attributes[n], text) for n, pair in zip(kept, pairs, strict=True) for text in pair["captions"]
                ]
                words.setdefault("descriptions", Counter()).update(rates(before) if way == "6 a cluster" else {})
                words.setdefault(f"captions, {way}", Counter()).update(rates(after))
            planted.update(faults.values())
            judged = {Path(row["photo"]).name: row for row in map(json.loads, (out / "crops.jsonl").open())}
            judged |= {Path(item.input).name: {"reasons": {"broken": ""}} for item in report.items[1:]}
            credited: set[str] = set()
            for name, fault in faults.items():
                reasons = set(judged[name]["reasons"])
                if "duplicate" in reasons:  # either of the two may be kept; no copy counts as found twice
                    pair = name, judged[name]["reasons"]["duplicate"].rpartition("/")[2]
                    copies = [n for n in pair if n not in credited and KINDS_OF.get(faults[n], ("",))[0] == "duplicate"]
                    if copies:
                        credited.add(copies[0])
                        fault = faults[copies[0]]
                hits.update((fault, reason) for reason in reasons)
    print("| planted | crops | found | as |\n| --- | --- | --- | --- |")
    for fault, (reason, _) in KINDS_OF.items():
        print(f"| {fault} | {planted[fault]} | {hits[fault, reason]} | {reason} |")
    print("\n| filter | left out | of them planted for it | precision |\n| --- | --- | --- | --- |")
    for reason in ("broken", "blank", "small", "shape", "blurred", "duplicate"):
        every = sum(count for (_, found), count in hits.items() if found == reason)
        own = {fault for fault, (kind, _) in KINDS_OF.items() if kind == reason}
        right = sum(hits[fault, reason] for fault in own)
        clean = hits["", reason]
        print(f"| {reason} | {every} | {right} | {right / max(every, 1):.3f} ({clean} of {planted['']} clean crops) |")
    print("\n| texts | words | fillers / 100 words | attributes said | of those wrong |")
    print("| --- | --- | --- | --- | --- |")
    for name, found in words.items():
        total = found["said"] + found["unsaid"]
        print(
            f"| {name} | {found['words']} | {100 * found['fillers'] / found['words']:.1f} | "
            f"{100 * found['said'] / total:.1f} % | {100 * found['wrong'] / found['said']:.1f} % |"
        )


if __name__ == "__main__":
    main()
