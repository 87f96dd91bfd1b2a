"""How the head of vit-minilm was chosen: what the ViT is asked, and how the map is fitted, by cross-validation.

    python tests/benchmarks/image_text_head.py DATA/image_text_train --cache DIR [--only NAME ...] [--folds 12]

Galleries are the folds of the training photos; the 60 photos of DATA/image_text are not read. Features of each size are
cached (713 photos: 26 s of one core at 112 px, 107 s at 224 px). Prints a Markdown table, a row when it is done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from attn.core.retrieve.data.formats import image_root, read_captioned
from attn.core.train.image_text_head.fit import Fitting, Head, Pairs, Spectrum, recall
from attn.core.train.image_text_head.options import BLOCKS, HeadOptions
from attn.core.train.image_text_head.run import DIM, Towers

SHOWN = ("t2i_r@1", "t2i_r@5", "t2i_r@10", "i2t_r@1", "i2t_r@5", "i2t_r@10", "mr")
PENALTY, TEXT_PENALTY = 1.3, 0.6
"""Of the photos' side per feature: all rows have the same share of their variance."""
STEPS, RATE, HEAT, PULL = 80, 0.02, 0.05, 1e-4
"""Of the contrastive fit: steps and rate of Adam, temperature, pull towards the start."""
ROWS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "published": ("ridge", (112,), (12,)),
    "cca-112-12": ("cca", (112,), (12,)),
    "cca-112": ("cca", (112,), (10, 11, 12)),
    "ridge-224": ("ridge", (224,), (10, 11, 12)),
    "cca-224-12": ("cca", (224,), (12,)),
    "cca-224-10": ("cca", (224,), (10,)),
    "cca-224": ("cca", (224,), (10, 11, 12)),
    "cca-224-9": ("cca", (224,), (9, 10, 11, 12)),
    "cca-both": ("cca", (112, 224), (10, 11, 12)),
    "whitening-224": ("whitening", (224,), (10, 11, 12)),
    "contrastive-224": ("contrastive", (224,), (10, 11, 12)),
    "ensemble-224": ("ensemble", (224,), (10, 11, 12)),
}


def pairs_of(data: Path, cache: Path, size: int) -> Pairs:
    """All photos at a size, with all blocks, [n, 12 * 768]; from the cache where it holds them."""
    file = cache / f"pairs-{size}.npz"
    if not file.exists():
        _, listed = read_captioned(data / "captions.jsonl")
        options = HeadOptions(data, cache, sizes=(size,), blocks=tuple(range(1, BLOCKS + 1)))
        root = image_root(data / "captions.jsonl", listed[0].image)
        towers = Towers(torch.device("cpu"), options)
        pairs = towers.embed(listed, root, lambda done, total, _: print(f"\r{done}/{total}", end="", file=sys.stderr))
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, features=pairs.features, captions=pairs.captions, owner=pairs.owner)
    with np.load(file) as saved:
        return Pairs(torch.from_numpy(saved["features"]), torch.from_numpy(saved["captions"]), saved["owner"])


def asked(data: Path, cache: Path, sizes: tuple[int, ...], blocks: tuple[int, ...]) -> Pairs:
    """What the ViT says of all photos at some sizes, in some blocks."""
    every = [pairs_of(data, cache, size) for size in sizes]
    chosen = [some.features.unflatten(1, (BLOCKS, -1))[:, [b - 1 for b in blocks]].flatten(1) for some in every]
    return Pairs(torch.cat(chosen, 1), every[0].captions, every[0].owner)


def fitted(method: str, spectrum: Spectrum, pairs: Pairs) -> Head:
    """The head of a method; ``pairs`` are those of the spectrum."""
    penalty = PENALTY * pairs.features.shape[1]
    cca = spectrum.head(Fitting(penalty, TEXT_PENALTY, DIM))
    ridge = spectrum.head(Fitting(penalty))
    if method in ("ridge", "cca"):
        return {"ridge": ridge, "cca": cca}[method]
    if method == "whitening":  # every axis counts the same, however little the sides agree on it
        strengths = cca["text_weight"].square().sum(0).sqrt() / _unit_texts(spectrum).square().sum(0).sqrt()
        return cca | {name: cca[name] / strengths for name in ("weight", "text_weight")}
    if method == "ensemble":  # both spaces side by side, each side of each at the same length in the mean
        both = [(ridge["weight"], torch.eye(ridge["weight"].shape[1], dtype=torch.float64))]
        both.append((cca["weight"], cca["text_weight"]))
        texts = pairs.captions.double() - spectrum.text_mean
        weight = torch.cat([w / (spectrum.x @ w).norm(dim=1).mean() for w, _ in both], 1)
        text_weight = torch.cat([t / (texts @ t).norm(dim=1).mean() for _, t in both], 1)
        return cca | {"weight": weight, "text_weight": text_weight}
    return cca | contrastive(spectrum, pairs, cca)


def _unit_texts(spectrum: Spectrum) -> Tensor:
    """``text_weight`` of cca before its axes count by their strengths."""
    least = TEXT_PENALTY * spectrum.text_variances.mean()
    whitening = spectrum.text_axes / (spectrum.text_variances.clamp(min=0) + least).sqrt()
    lengths = (spectrum.squares + PENALTY * spectrum.x.shape[1]).sqrt()
    common = (spectrum.axes * (spectrum.squares.sqrt() / lengths)).T @ (spectrum.y @ whitening)
    return whitening @ torch.linalg.eigh(common.T @ common)[1][:, -DIM:]


def contrastive(spectrum: Spectrum, pairs: Pairs, start: Head) -> Head:
    """InfoNCE in both directions over all photos, one random caption each, from the maps of cca.

    Both sides are whitened first, so that a step means the same along all axes.
    """
    lengths = (spectrum.squares + PENALTY * spectrum.x.shape[1]).sqrt()
    least = TEXT_PENALTY * spectrum.text_variances.mean()
    photos = spectrum.axes * (spectrum.squares.sqrt() / lengths)  # [n, r]
    back = spectrum.x.T @ (spectrum.axes / (spectrum.squares.sqrt() * lengths))  # [F, r]
    whitening = spectrum.text_axes / (spectrum.text_variances.clamp(min=0) + least).sqrt()
    first = photos.T @ (spectrum.y @ whitening) @ torch.linalg.solve(whitening, _unit_texts(spectrum))
    second = torch.linalg.solve(whitening, start["text_weight"])
    begun = [(part / part.square().mean().sqrt()).float() for part in (first, second)]
    maps = [part.clone().requires_grad_() for part in begun]
    texts = ((pairs.captions.double() - spectrum.text_mean) @ whitening).float()
    seen, count = photos.float(), len(photos)
    captions = [torch.from_numpy(np.flatnonzero(pairs.owner == photo)) for photo in range(count)]
    draw, right = torch.Generator().manual_seed(0), torch.arange(count)
    adam = torch.optim.Adam(maps, RATE)
    for _ in range(STEPS):
        said = texts[torch.stack([of[torch.randint(len(of), (), generator=draw)] for of in captions])]
        scores = normalize(seen @ maps[0], dim=1) @ normalize(said @ maps[1], dim=1).T / HEAT
        loss = torch.nn.functional.cross_entropy(scores, right) + torch.nn.functional.cross_entropy(scores.T, right)
        loss = loss + PULL * sum((mine - its).square().sum() for mine, its in zip(maps, begun, strict=True))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return {"weight": back @ maps[0].detach().double(), "text_weight": whitening @ maps[1].detach().double()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--folds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=77)
    args = parser.parse_args()
    print(f"| row | method | px | blocks | {' | '.join(SHOWN)} | deviation of a fold |\n{'|---' * (len(SHOWN) + 5)}|")
    for name in args.only:
        method, sizes, blocks = ROWS[name]
        pairs = asked(args.data, args.cache, sizes, blocks)
        order = np.random.default_rng(args.seed).permutation(len(pairs.features))
        rows = []
        for fold in np.array_split(order, args.folds):
            known = pairs.of(np.setdiff1d(order, fold))
            rows.append(recall(fitted(method, Spectrum(known), known), pairs.of(np.sort(fold))))
        means = " | ".join(f"{np.mean([row[column] for row in rows]):.1f}" for column in SHOWN)
        spread = np.std([row["t2i_r@1"] for row in rows], ddof=1)
        shown = ", ".join(map(str, sizes)), ", ".join(map(str, blocks))
        print(f"| {name} | {method} | {' | '.join(shown)} | {means} | {spread:.1f} |", flush=True)


if __name__ == "__main__":
    main()
