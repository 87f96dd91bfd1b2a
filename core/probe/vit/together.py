"""All pictures of a run together: mean importance, how the measures agree, pruning curves, and the atlas of patterns.

Read from the arrays that each picture has left, so that pictures of an earlier run count as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...options import OptionError
from ...progress import Watcher
from ...report.model import Item
from ...report.sections import Picture, Section, Table, Trust, TrustLine
from ..panel import FigureData, Origin, write_figure
from ..trust.lines import FEWEST, line, weights_line
from ..trust.randomised import randomised
from .curve import ORDERS, Curves, Pruning, curves_of
from .importance import agreement, context_means, importance
from .options import VitOptions
from .patterns import CODE, atlas_of, principal, scaled
from .restart import HeadSite
from .results import HeadResults, pictures_of
from .tables import class_rows, cluster_rows, drawn, head_rows, mean_names

NAME = "heads.vit.png"
KIND = "vit-heads"
MOST = 4000
"""Patterns of an atlas; further pictures are left out of it."""


def look_together(
    items: Sequence[Item], options: VitOptions, site: HeadSite, origin: Origin, watcher: Watcher, notices: list[str]
) -> Sequence[Section]:
    """Sections of all pictures, and the figure ``heads.vit.png`` beside the first result.

    ``notices`` gets what a user should be told of the whole.
    """
    pictures = pictures_of(items, origin.request)
    if not pictures.names:
        return ()
    means = {name: pictures.stack(f"importance_{name}").mean(0).astype(np.float64) for name in pictures.measures}
    ranking = str(pictures.facts[0]["ranking"])
    if not pictures.facts[0]["classifier"]:
        notices.append(
            f"{options.model} has no classes: heads are judged by what they change in the feature (cos: 1 - cosine); "
            "jsd, kl, dprob, dloss and flip need a classifier"
        )
    codes, coder, count = codes_of(pictures, options, notices)
    atlas = atlas_of(codes, options.clusters, options.seed)
    curves = prune(pictures, means, options, site, watcher)
    names = mean_names(pictures)
    sections: list[Section] = [
        Table("heads", head_rows(pictures, means, ranking, names, atlas), title="Every head, over the pictures",
              detail=True),
        Table("agreement", agreement(means), title="Kendall's tau between the rankings", detail=len(means) < 3),
        Table("clusters", cluster_rows(pictures, atlas, names), title=f"Patterns of attention, grouped by {coder}"),
    ]  # fmt: skip
    if rows := class_rows(pictures, ranking):
        sections.append(Table("classes", rows, title=f"Most important head of each class ({ranking})", detail=True))
    lines = []
    if curves is not None:
        sections.append(Table("pruning", curves.rows(), title="Area under what is left as heads are taken out"))
        score = curves.scores[-1]
        lines.append(line(
            f"cumulative pruning by {ranking}", curves.gap(ranking, score), curves.chance(score),
            f"area under the {score} that is left, least important heads first minus most important first; random "
            "orders differ by about 0",
        ))  # fmt: skip
        notices.extend(told(curves, ranking))
    if options.trust:
        lines.append(_weights(pictures, ranking, options, site))
    if lines:
        sections.append(Trust("trust", lines, title="Can the importance of the heads be believed?"))
    place = place_of(items, options.inputs.output)
    arrays, facts = drawn(pictures, means, ranking, names, atlas, curves, count)
    write_figure(
        place, FigureData(KIND, f"{len(pictures.names)} pictures, {options.model}", arrays, facts, origin),
        sections=sections,
    )  # fmt: skip
    return [Picture("together", str(place), title="All pictures together"), *sections]


def place_of(items: Sequence[Item], output: str | None) -> Path:
    """Of the figure of all: in the folder of the results, beside the first where they lie beside the pictures."""
    if output is not None and not Path(output).suffix:
        return Path(output) / NAME
    return next(Path(item.output) for item in items if item.output is not None).with_name(NAME)


def codes_of(pictures: HeadResults, options: VitOptions, notices: list[str]) -> tuple[NDArray[np.float32], str, int]:
    """Codes of the patterns, [S, D], picture by picture, layer by layer; by what; and of how many pictures."""
    heads = int(np.prod(pictures.arrays[0]["patterns"].shape[:2]))
    count = max(1, min(len(pictures.names), MOST // heads))
    if count < len(pictures.names):
        notices.append(f"the atlas of patterns holds the first {count} of {len(pictures.names)} pictures")
    patches = int(pictures.arrays[0]["received"].shape[-1])
    samples = np.concatenate([
        scaled(one["patterns"], patches).reshape(heads, -1) for one in pictures.arrays[:count]
    ])  # fmt: skip
    if options.atlas is None:
        notices.append(
            f"patterns are laid out by {CODE} principal components of their own; --atlas takes the autoencoder of the "
            "paper, which attn train pattern-atlas makes"
        )
        return principal(samples, CODE)[0], "principal components", count
    from ...nets.pattern_autoencoder import read_atlas

    coder = read_atlas(options.atlas)
    if coder.inputs != samples.shape[1]:
        raise OptionError(
            f"{{atlas}}: {options.atlas} codes patterns of {coder.inputs} numbers, those of this model have "
            f"{samples.shape[1]}. Train one with this model."
        )
    with torch.inference_mode():
        return coder.encode(torch.from_numpy(samples)).numpy(), "the autoencoder", count


def prune(
    pictures: HeadResults,
    means: Mapping[str, NDArray[np.float64]],
    options: VitOptions,
    site: HeadSite,
    watcher: Watcher,
) -> Curves | None:
    """Curves of every measure's ranking; None where none are wanted."""
    if not options.points:
        return None
    weight = next(site.model.parameters())
    pixels = torch.from_numpy(pictures.stack("pixels")).to(weight.device, weight.dtype)
    classes = [facts["target"] for facts in pictures.facts]
    target = None if classes[0] is None else torch.tensor(classes, device=weight.device)
    instead = None
    if options.ablate == "mean":
        with torch.inference_mode():
            instead = context_means(site.plain(pixels)[1])
    most = options.points * (2 * len(means) + ORDERS)
    done = [0]

    def told() -> None:
        done[0] += 1
        watcher.step("heads taken out one after the other", min(done[0], most), most)

    pruning = Pruning(site, pixels, target, options.ablate, instead, options.points, told)
    return curves_of(pruning, means, seed=options.seed)


def told(curves: Curves, ranking: str) -> list[str]:
    """Whether the ranking predicts cumulative pruning better than the others, as the paper says of JSD."""
    score = curves.scores[-1]
    if len(curves.least) < 2:
        return []
    order = sorted(curves.least, key=lambda name: -curves.gap(name, score))
    place = order.index(ranking) + 1
    return [
        f"cumulative pruning: {ranking} is number {place} of {len(order)} measures by what its order predicts (gap of "
        f"the area under the {score}: {ranking} {curves.gap(ranking, score):.3f}, best {order[0]} "
        f"{curves.gap(order[0], score):.3f})"
    ]


def _weights(pictures: HeadResults, ranking: str, options: VitOptions, site: HeadSite) -> TrustLine:
    """The importance of the first picture against those of models with randomised weights."""
    weight = next(site.model.parameters())
    pixels = torch.from_numpy(pictures.arrays[0]["pixels"])[None].to(weight.device, weight.dtype)
    measure = ranking if ranking != "gradient" else "cos"
    untrained = []
    for seed in range(FEWEST):
        with torch.inference_mode(), randomised(site.model, options.seed + seed):
            untrained.append(importance(site, pixels, ablation="zero").heads[measure][..., 0])
    return weights_line(pictures.arrays[0][f"importance_{measure}"], untrained)
