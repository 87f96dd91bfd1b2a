"""`attn probe codebook`: usage of codes, what each stands for, and what can be read from both sides of a codebook.

Paper: arXiv 2311.04193. Specification: methods/embodied-codebook.md, section 3.4.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import attn

from ...device import pick_device
from ...errors import InputError
from ...io.arrays import read_archive
from ...models.files import sha256
from ...nets.task_codebook import TaskCodebook
from ...options import OptionError, values
from ...progress import Bars, Watcher
from ...report.model import Item, Report, command_line_of, summarise
from ...report.sections import Picture, Table
from ..frame import request_of, scenes_figure
from ..panel import FigureData, Origin, write_figure
from .agent import Agent, SavedAgent, read_agent
from .data import Demonstration, batch_of, draw_episodes
from .options import CodebookProbeOptions
from .usage import geometry, specialisation, usage
from .views import ViewFeatures, encoder_of
from .world import World

WORD = "codebook"
PROBING = 5
"""What these episodes are for (``data``): none of training's or of a test's."""
SHOWN, VIEWS = 6, 5
"""Codes of the sheet, and views of each."""
RIDGE = 1e-2
"""Of a read-out, times the rows it is fitted on; columns are standardised."""
KEYS = ("probs", "goals", "codes", "images")
FIX = "Give an NPZ as attn probe codebook --help says, or a model.safetensors of attn train codebook"


@dataclass(frozen=True, slots=True)
class Frames:
    """n frames and what a codebook of K codes makes of them.

    Parameters
    ----------
    probs : ndarray of float [n, K]
    goals : ndarray of int64 [n], optional
    names : tuple of str
        Of goals.
    codes : ndarray of float [K, D_c], optional
    images : ndarray of uint8 [n, H, W, 3], optional
    read : mapping of str to float
        Scores of read-outs.
    """

    probs: NDArray[np.floating]
    goals: NDArray[np.int64] | None
    names: tuple[str, ...]
    codes: NDArray[np.floating] | None
    images: NDArray[np.uint8] | None
    read: Mapping[str, float]


def run(
    options: CodebookProbeOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Look at a codebook's codes.

    Raises
    ------
    UsageError
        If there is no place to write to, the file is no agent's, its bottleneck is no codebook, or the environment is
        not installed.
    InputError
        If an NPZ does not hold what it should.
    """
    start = time.perf_counter()
    arguments, watcher = arguments or values(options), watcher or Bars()
    path = scenes_figure(options.output, WORD, options.source.stem)
    device = pick_device(options.device)
    name = str(options.source)
    if options.source.suffix.lower() == ".npz":
        frames = frames_of_archive(options.source)
    else:
        frames = frames_of_agent(options, device, lambda done: watcher.step(name, done, options.episodes))
    try:
        found = usage(frames.probs, frames.goals, len(frames.names))
    except ValueError as error:
        raise InputError(name, str(error), FIX) from error
    metrics = {"frames": float(found.frames), "codes": float(len(found.mean)), **found.metrics(), **frames.read}
    if frames.codes is not None:
        shape = geometry(frames.codes)
        metrics |= {key: float(shape[key]) for key in ("mean_cosine", "effective_rank")}  # type: ignore[arg-type]
    top = np.argsort(-found.winners, kind="stable")[: min(SHOWN, int((found.winners > 0).sum()))]
    arrays: dict[str, NDArray[Any]] = {"usage": found.mean, "winners": found.winners, "top": top}
    if found.by_goal is not None:
        arrays["by_goal"] = found.by_goal
    if frames.images is not None:
        arrays["views"] = np.stack([views_of(frames.probs[:, code], frames.images) for code in top])
    warnings = [f"collapse: {text}" for text in found.collapsed()]
    if found.frames < len(found.mean):
        warnings.append(f"{found.frames} frames are fewer than {len(found.mean)} codes: some are dead for that reason")
    table = Table("codes", specialisation(found, frames.names), title="Codes that win a frame", printed=False)
    fingerprint = sha256(options.source)
    request = request_of(fingerprint, {"episodes": options.episodes, "seed": options.seed})
    origin = Origin(command_line_of(arguments), name, fingerprint, seed=options.seed, request=request)
    title = f"{options.source.name}: {found.frames} frames, {len(found.mean)} codes"
    facts = {"source": name, "goals": list(frames.names), "images": frames.images is not None}
    data = FigureData(WORD, title, arrays, facts, origin)
    files = write_figure(path, data, metrics=metrics, sections=(table,), warnings=warnings)
    seconds = time.perf_counter() - start
    sections = (table, Picture("figure", str(path), title="Codes"))
    item = Item(
        name, str(path), "ok", seconds, metrics=metrics, files=files, warnings=tuple(warnings), details=facts,
        sections=sections,
    )  # fmt: skip
    return Report("probe", attn.__version__, arguments, str(device), seconds, (item,), summarise([item]))


def views_of(prob: NDArray[np.floating], images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The distinct views [5, H, W, 3] of greatest probability [n], the most probable first; grey where there are no
    more."""
    sheet = np.full((VIEWS, *images.shape[1:]), 128, np.uint8)
    seen: set[bytes] = set()
    for row in np.argsort(-prob, kind="stable"):
        if (view := images[row].tobytes()) not in seen:
            sheet[len(seen)] = images[row]
            seen.add(view)
            if len(seen) == VIEWS:
                break
    return sheet


def frames_of_archive(path: Path) -> Frames:
    """What an NPZ holds. Raises ``InputError`` for what does not fit."""
    held = read_archive(path, KEYS, ("probs",))
    probs = held["probs"]
    if probs.ndim != 2 or probs.dtype.kind != "f" or not probs.shape[1]:
        raise InputError(path, f"probs is {probs.dtype} {list(probs.shape)}, not float [frames, codes]", FIX)
    goals, codes, images = held.get("goals"), held.get("codes"), held.get("images")
    names: tuple[str, ...] = ()
    if goals is not None:
        if goals.shape != probs.shape[:1] or goals.dtype.kind not in "iu" or (goals < 0).any():
            raise InputError(path, "goals are not a whole number from 0 for each row of probs", FIX)
        known, goals = np.unique(goals, return_inverse=True)  # empty goals have no column
        names = tuple(map(str, known))
    if codes is not None and (codes.ndim != 2 or len(codes) != probs.shape[1] or not np.isfinite(codes).all()):
        raise InputError(path, f"codes is {list(codes.shape)}, not a row of numbers for each column of probs", FIX)
    if images is not None and (
        images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) != len(probs)
    ):
        raise InputError(path, "images are not uint8 [frames, H, W, 3], one for each row of probs", FIX)
    return Frames(probs, None if goals is None else goals.astype(np.int64), names, codes, images, {})


def frames_of_agent(options: CodebookProbeOptions, device: torch.device, step: Any) -> Frames:
    """What an agent's codebook makes of the planner's episodes. Raises ``UsageError``, see ``run``."""
    saved = read_agent(options.source)
    if not isinstance(saved.agent.bottleneck, TaskCodebook):
        kind = saved.agent.shape.bottleneck
        raise OptionError(
            f"{{source}}: {options.source} has no codebook (its bottleneck is {kind}). Name another file."
        )
    world, views = place_of(saved, options, device)
    episodes = draw_episodes(world, PROBING, options.seed, options.episodes, held_out=False, views=views, step=step)
    agent = saved.agent.to(device)
    parts = [embedded(agent, one, views) for one in episodes.played]
    looked = [looked_at(world, one) for one in episodes.played]
    probs, code, wide, after = (np.concatenate([part[n] for part in parts]) for n in range(4))
    images, target, clutter = (np.concatenate([one[n] for one in looked]) for n in range(3))
    counts = [len(one.actions) for one in episodes.played]
    test = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    read: dict[str, float] = {"target_share": float(target.mean()), "clutter_mean": float(clutter.mean())}
    for name, x in (("E", wide), ("E_hat", after), ("code", code)):
        read |= {f"target_{name}": told_apart(x, target, test), f"clutter_{name}": explained(x, clutter, test)}
    told = [str(one.case.goal) for one in episodes.played]
    names = tuple(sorted(set(told)))
    goals = np.repeat(np.array([names.index(text) for text in told], np.int64), counts)
    codes = saved.agent.bottleneck.table().detach().cpu().numpy()
    return Frames(probs, goals, names, codes, images, read)


def place_of(
    saved: SavedAgent, options: CodebookProbeOptions, device: torch.device
) -> tuple[World, ViewFeatures]:  # fmt: skip
    """The world that an agent was trained in and its eyes. Raises ``UsageError`` where they are not here."""
    try:
        environment, encoder = str(saved.training["options"]["environment"]), saved.encoder["name"]
    except (KeyError, TypeError) as error:
        raise OptionError(f"{{source}}: {options.source} does not name its environment. Train it anew.") from error
    world, reading = World(environment), encoder_of(encoder, device)
    if reading.fingerprint != saved.encoder["fingerprint"]:
        raise OptionError(
            f"{{source}}: {options.source} was trained with another encoder {encoder} than the one here. Name its "
            "folder as it was, or train it anew."
        )
    return world, ViewFeatures(reading, device)


@torch.inference_mode()
def embedded(agent: Agent, one: Demonstration, views: ViewFeatures) -> tuple[NDArray[np.float32], ...]:
    """probs [T, K], code [T, D_c], E and E_hat [T, embedding] of an episode, in eval mode."""
    batch = batch_of([one])
    wide = agent.embed(views.features(batch.views), batch.goal.to(views.device), batch.index.to(views.device))
    assert isinstance(agent.bottleneck, TaskCodebook)
    found = agent.bottleneck.filtered(wide)
    return tuple(x[0].float().cpu().numpy() for x in (found.probs, found.code, wide, found.embedding))


def looked_at(world: World, one: Demonstration) -> tuple[NDArray[Any], ...]:
    """Of an episode played again: views uint8 [T, H, W, 3], whether the goal's first thing is in view bool [T], and how
    many other things are float64 [T]."""
    world.begin(one.case.seed)
    pictures, target, clutter = [], [], []
    for action in one.actions:
        pictures.append(np.rint(world.picture().transpose(1, 2, 0) * 255).astype(np.uint8))
        things = world.things_seen()
        fits = [one.case.goal.thing.fits(thing) for thing in things]
        target.append(any(fits))
        clutter.append(float(len(fits) - sum(fits)))
        world.act(action)
    return np.stack(pictures), np.array(target), np.array(clutter)


def ridge(x: NDArray[np.floating], y: NDArray[np.floating], test: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values of all rows by a ridge regression on those that are not the test's, whose columns are standardised."""
    wide = np.asarray(x, np.float64)
    mean, spread = wide[~test].mean(0), wide[~test].std(0)
    wide = (wide - mean) / np.where(spread > 1e-9, spread, 1.0)
    own, offset = wide[~test], float(y[~test].mean())
    gram = own.T @ own + RIDGE * len(own) * np.eye(own.shape[1])
    found: NDArray[np.float64] = wide @ np.linalg.solve(gram, own.T @ (y[~test] - offset)) + offset
    return found


def told_apart(x: NDArray[np.floating], label: NDArray[np.bool_], test: NDArray[np.bool_]) -> float:
    """Balanced accuracy of a linear read-out in the test's rows; NaN where only one answer is there."""
    seen, learnt = label[test], label[~test]
    if seen.all() or not seen.any() or learnt.all() or not learnt.any():
        return float("nan")
    values_ = ridge(x, label.astype(np.float64), test)
    middle = (values_[~test & label].mean() + values_[~test & ~label].mean()) / 2  # whatever the answers' shares
    told = values_[test] > middle
    return float((told[seen].mean() + (~told)[~seen].mean()) / 2)


def explained(x: NDArray[np.floating], y: NDArray[np.float64], test: NDArray[np.bool_]) -> float:
    """R2 of a linear read-out in the test's rows; NaN where all are equal."""
    rest = float(np.square(y[test] - y[test].mean()).sum())
    return 1 - float(np.square(y - ridge(x, y, test))[test].sum()) / rest if rest else float("nan")
