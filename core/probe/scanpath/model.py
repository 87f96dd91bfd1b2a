"""The network of a search, its model file, and what is asked of it. Specification: methods/oat.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...io.weights import check_architecture, read_weights, write_weights
from ...nets.oat import OAT, LearnedPositions, OATShape, OriginalPositions, generate, learned_table, table_width
from .objects import GRID, SceneTensors
from .shelves import HEIGHT, WIDTH

FORMAT, VERSION = "attn-scanpath", 1
SHIPPED = "shelves"
"""What users call the weights that ship."""
WEIGHTS = Path(__file__).with_name("weights") / "shelves.safetensors"
Positions = Literal["learned", "original"]


@dataclass(frozen=True, slots=True)
class SearchShape:
    """Sizes of a network of a search.

    Parameters
    ----------
    width, heads, layers, feed_forward, readout_heads, head_width, pyramid, dropout
        See ``OATShape``.
    positions : {"learned", "original"}
    compat : bool
        Of the original positions: row 3 is blank, as in the reference.
    height, crop_width : int
        Pixels of a crop.
    longest : int
        Fixations at which a path ends.
    """

    width: int
    heads: int
    layers: int
    feed_forward: int
    readout_heads: int = 2
    head_width: int = 64
    pyramid: int = 3
    dropout: float = 0.1
    positions: Positions = "learned"
    compat: bool = False
    height: int = HEIGHT
    crop_width: int = WIDTH
    longest: int = 24

    @property
    def crop(self) -> tuple[int, int]:
        return self.height, self.crop_width

    def build(self, table: Tensor | None = None) -> OAT:
        """The network, its weights drawn from torch's generator; ``table`` (GRID + 4, m) of the learned positions."""
        half = self.width // 2
        shape = OATShape(
            self.width, self.heads, self.layers, self.feed_forward, self.readout_heads, self.head_width, self.pyramid,
            self.dropout,
        )  # fmt: skip
        if self.positions == "original":
            return OAT(shape, OriginalPositions(half, GRID, self.compat))
        return OAT(shape, LearnedPositions(torch.zeros(GRID + 4, table_width(half)) if table is None else table, half))

    def drawn(self, seed: int) -> OAT:
        """The network before its training, and the table of positions trained (section 3.4)."""
        table = learned_table(GRID, self.width // 2, seed) if self.positions == "learned" else None
        torch.manual_seed(seed)
        return self.build(table)


@dataclass(frozen=True, slots=True)
class SearchModel:
    """A network in eval mode, its shape, and what is said of its training."""

    net: OAT
    shape: SearchShape
    training: Mapping[str, Any]


def write_model(path: Path, net: OAT, shape: SearchShape, facts: Mapping[str, Any]) -> None:
    """Write a model file, atomically; float16."""
    described = {"format": FORMAT, "version": VERSION, "architecture": asdict(shape), "training": dict(facts)}
    write_weights(path, net.state_dict(), described)


def read_model(path: Path) -> SearchModel:
    """What ``write_model`` wrote, in float32. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> SearchModel:
        shape = SearchShape(**described["architecture"])
        check_architecture(described["architecture"], shape.build, state)
        net = shape.build()
        net.load_state_dict(state)
        return SearchModel(net.eval(), shape, described["training"])

    return read_weights(path, FORMAT, VERSION, build, what="scanpath model of attn. `attn train oat` makes one")


def path_logits(net: OAT, scenes: Sequence[SceneTensors], paths: Sequence[Sequence[Sequence[int]]]) -> tuple[
    Tensor, Tensor
]:  # fmt: skip
    """Teacher forcing: logits (T, P, N+2) of all paths of some scenes, and the tokens to come (T, P), PAD behind EOS.

    Scenes have equally many objects, crops are encoded once. P counts paths, scene by scene.
    """
    device = net.readout.weight.device
    crops = torch.stack([scene.crops for scene in scenes]).to(device).float() / 255
    triples = torch.stack([scene.triples for scene in scenes]).to(device)
    places = torch.stack([scene.places for scene in scenes]).to(device)
    count = crops.shape[1]
    looks = net.cnn_embedding(crops)  # [S, N, E/2]
    blank = net.cnn_embedding(torch.ones_like(crops[:1, :1])).expand(len(scenes), 3, -1)
    targets = torch.tensor([scene.target for scene in scenes], device=device)
    goal = looks[torch.arange(len(scenes), device=device), targets]
    encoded = net.encode(torch.cat((looks, goal[:, None]), 1).transpose(0, 1), triples.transpose(0, 1))
    owner = [number for number, own in enumerate(paths) for _ in own]
    flat = [path for own in paths for path in own]
    longest = max(map(len, flat)) + 1
    tokens = torch.full((longest + 1, len(flat)), count + 1)
    tokens[0] = count + 2
    for number, path in enumerate(flat):
        tokens[1 : len(path) + 1, number] = torch.tensor(path, dtype=torch.int64)
        tokens[len(path) + 1, number] = count
    tokens = tokens.to(device)
    whose = torch.tensor(owner, device=device)
    given = tokens[:-1]
    looked = torch.cat((looks, blank), 1)[whose, given]
    where = places[whose, given]
    return net.decode(looked, where, encoded[:, whose], (given == count + 1).T), tokens[1:]


@torch.no_grad()
def step_probabilities(net: OAT, scene: SceneTensors, path: Sequence[int]) -> Tensor:
    """Of a path and what would come behind it: probabilities of objects and of stopping (T+1, N+1).

    The first step cannot stop, as in generation (section 3.5).
    """
    logits, _ = path_logits(net, [scene], [[path]])
    logits = logits[:, 0, :-1]
    logits[0, -1] = -torch.inf
    return logits.softmax(-1)


def drawn_paths(
    model: SearchModel, scene: SceneTensors, samples: int | None, generator: torch.Generator | None = None
) -> list[list[int]]:
    """Paths over a scene: the greedy one alone, or so many drawn ones."""
    crops = scene.crops.to(model.net.readout.weight.device).float() / 255
    crops = torch.cat((crops, crops[scene.target : scene.target + 1]))
    return generate(
        model.net, crops, scene.triples.to(crops.device), scene.target, scene.rows, scene.cols,
        longest=model.shape.longest, samples=samples, generator=generator,
    )  # fmt: skip
