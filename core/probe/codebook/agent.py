"""The agent around the bottleneck, small, and its model file. Specification: methods/embodied-codebook.md, section 3.1.

The critic is left out: behaviour cloning has no use for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...io.weights import check_architecture, read_weights, write_weights
from ...nets.task_codebook import GoalEncoder, Index, Kind, TaskCodebook
from .world import ACTIONS, WORDS

Bottleneck = Literal["codebook", "none", "linear"]
FORMAT, VERSION = "attn-codebook-agent", 1
GOAL_DIM, ACTION_DIM = 32, 6


@dataclass(frozen=True, slots=True)
class AgentShape:
    """Sizes of an agent.

    Parameters
    ----------
    channels, height, width : int
        Of the features that it is given.
    hidden : int
        Of the GRU.
    compressed : int
        Channels of a cell behind the compressor, and behind the combiner; four times as many between their layers.
    bottleneck : {"codebook", "none", "linear"}
        ``linear``: down to ``code_dim`` and up again, as wide as the codebook's and nothing else.
    codes, code_dim, dropout, index, kind, topk
        See ``TaskCodebook``.
    """

    channels: int
    height: int
    width: int
    hidden: int
    compressed: int
    bottleneck: Bottleneck
    codes: int
    code_dim: int
    dropout: float
    index: Index
    kind: Kind
    topk: int

    @property
    def embedding(self) -> int:
        """Width of what the bottleneck is given."""
        return self.compressed * self.height * self.width + ACTION_DIM


class Agent(nn.Module):
    """Features, goal and the action before, to logits of actions.

    Parameters
    ----------
    shape : AgentShape
    """

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.shape = shape
        ends = 4 * shape.compressed, shape.compressed
        words = nn.EmbeddingBag(WORDS, GOAL_DIM, mode="sum")  # goals never aimed at are made of words that were
        self.encoder = GoalEncoder(shape.channels, words, GOAL_DIM, ends, ends)
        self.action = nn.Embedding(ACTIONS + 1, ACTION_DIM)
        self.memory = nn.GRU(shape.embedding, shape.hidden, batch_first=True)
        self.actor = nn.Linear(shape.hidden, ACTIONS)
        self.bottleneck = bottleneck_of(shape)  # last: all agents of a seed begin alike around it

    def embed(self, features: Tensor, goal: Tensor, index: Tensor) -> Tensor:
        """Step 6, E: features [B, T, c, h, w], words of goals int64 [B, 4] and ``action_index`` [B, T], to
        [B, T, embedding]."""
        steps = features.shape[1]
        seen = self.encoder(features, goal[:, None].expand(-1, steps, -1))
        return torch.cat([seen, self.action(index)], -1)

    def forward(
        self, features: Tensor, goal: Tensor, index: Tensor, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, T, 7] and the state of the GRU [1, B, hidden], which goes on from ``before``."""
        beliefs, state = self.memory(self.bottleneck(self.embed(features, goal, index)), before)
        logits: Tensor = self.actor(beliefs)
        return logits, state

    def adapting(self) -> None:
        """Section 5, transfer: bottleneck, GRU and head stay, what is before them learns."""
        for part in (self.bottleneck, self.memory, self.actor):
            part.requires_grad_(False)


def bottleneck_of(shape: AgentShape) -> nn.Module:
    """What stands between embedding and memory."""
    wide = shape.embedding
    if shape.bottleneck == "none":
        return nn.Identity()
    if shape.bottleneck == "linear":
        return nn.Sequential(nn.Linear(wide, shape.code_dim), nn.Linear(shape.code_dim, wide))
    return TaskCodebook(wide, shape.codes, shape.code_dim, shape.dropout, shape.index, shape.kind, shape.topk)


def write_agent(path: Path, agent: Agent, encoder: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Write a model file, atomically; float16. ``encoder``: its name and fingerprint."""
    described = {
        "format": FORMAT, "version": VERSION, "architecture": asdict(agent.shape), "encoder": dict(encoder),
        "training": dict(facts),
    }  # fmt: skip
    write_weights(path, agent.state_dict(), described)


@dataclass(frozen=True, slots=True)
class SavedAgent:
    """What a model file holds: the agent in eval mode, its encoder, and what is said of its training."""

    agent: Agent
    encoder: Mapping[str, str]
    training: Mapping[str, Any]


def read_agent(path: Path) -> SavedAgent:
    """What ``write_agent`` wrote. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> SavedAgent:
        shape = AgentShape(**described["architecture"])
        check_architecture(described["architecture"], lambda: Agent(shape), state)
        agent = Agent(shape)
        agent.load_state_dict(state)
        return SavedAgent(agent.eval(), described["encoder"], described["training"])

    return read_weights(path, FORMAT, VERSION, build, what="agent of attn. `attn train codebook` makes one")
