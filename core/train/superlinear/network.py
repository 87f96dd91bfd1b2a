"""A network of one attention layer that can look up, with the attention to choose; and its model file.

A causal convolution over two tokens brings every value its key, as the short convolutions in front of the attention
layers of the paper's hybrid model do. There are no positions: what is looked for is known by content alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...attention import attention
from ...attention.contract import Shape
from ...attention.superlinear.operator import OPERATOR, SELECT
from ...attention.superlinear.settings import Settings
from ...io.weights import check_architecture, read_weights, write_weights
from .data import VALUES, VOCABULARY, Lookups
from .options import HEAD

Routing = Literal["superlinear", "frozen", "window", "dense"]
FORMAT, VERSION = "attn-lookup", 1


@dataclass(frozen=True, slots=True)
class LookupShape:
    """Sizes of the network; see ``SuperlinearOptions``."""

    width: int
    num_spans: int
    sw_index: int
    memory: float

    @property
    def settings(self) -> dict[str, Any]:
        """Parameters of the operator."""
        accumulate = f"ema:{self.memory}" if self.memory else None
        return {"num_spans": self.num_spans, "sw_index": self.sw_index, "accumulate": accumulate}

    def keys(self, length: int) -> float:
        """Keys of a query of superlinear attention, search included: mean over ``length`` positions."""
        cost = OPERATOR.cost(Shape(1, 1, 1, length, length, HEAD, HEAD, True), settings=Settings(**self.settings))
        return cost.searched + cost.attended

    def window(self, length: int) -> int:
        """The smallest window whose queries see as many keys, in the mean over ``length`` positions."""
        seen = torch.arange(1, length + 1, dtype=torch.float64).cumsum(0)  # keys of the first w queries
        window = torch.arange(1, length + 1, dtype=torch.float64)
        mean = (seen + (length - window) * window) / length
        return min(length, 1 + int(torch.searchsorted(mean, self.keys(length))))


class Looking(NamedTuple):
    """What the attention is given: q, k, v, q_search [B, H, L, 64]."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_search: Tensor


class LookupNetwork(nn.Module):
    """Tokens to the values asked for.

    Parameters
    ----------
    shape : LookupShape
    routing : {"superlinear", "frozen", "window", "dense"}
        Which keys its queries attend to. "frozen": superlinear attention whose search queries stay as they began, and
        whose gates pass no gradient.
    """

    def __init__(self, shape: LookupShape, routing: Routing = "superlinear") -> None:
        super().__init__()
        width = shape.width
        self.shape, self.routing = shape, routing
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.before = nn.Conv1d(width, width, 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v, self.q_search, self.out = (nn.Linear(width, width, bias=False) for _ in range(5))
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, VALUES)
        for projection in (self.q, self.k):
            nn.init.normal_(projection.weight, 0, width**-0.5)
        with torch.no_grad():  # methods/superlinear.md, section 5: gate logits of order 1
            self.q_search.weight.copy_(self.q.weight / HEAD**0.25)
        self.q_search.requires_grad_(routing != "frozen")

    def look(self, tokens: Tensor) -> tuple[Tensor, Looking]:
        """Tokens [B, L] -> residual stream [B, L, width] and what the attention is given."""
        x = self.embedding(tokens)
        x = x + self.before(F.pad(x.mT, (1, 0))).mT
        normed = self.norm(x)
        heads = (
            projection(normed).unflatten(-1, (-1, HEAD)).transpose(1, 2)
            for projection in (self.q, self.k, self.v, self.q_search)
        )
        return x, Looking(*heads)

    def forward(self, tokens: Tensor, asked: Tensor) -> Tensor:
        """Logits of the values [B, n, values] at the positions ``asked`` [B, n] of ``tokens`` [B, L]."""
        x, look = self.look(tokens)
        out = self.attend(look).transpose(1, 2).flatten(-2)
        row = torch.arange(len(tokens), device=tokens.device)[:, None]
        logits: Tensor = self.head(self.last(x[row, asked] + self.out(out[row, asked])))
        return logits

    def attend(self, look: Looking) -> Tensor:
        """Attention output [B, H, L, 64]."""
        q, k, v, q_search = look
        params: dict[str, Any]
        if self.routing == "dense":
            name, params = "dense", {}
        elif self.routing == "window":
            name, params = "window+sink", {"window": self.shape.window(q.shape[2]), "num_sinks": 0}
        else:
            learns = self.routing == "superlinear"
            name, params = "superlinear", {"q_search": q_search, "routing_gradient": learns, **self.shape.settings}
        out: Tensor = attention(name, q, k, v, causal=True, **params)
        return out

    @torch.no_grad()
    def reached(self, lookups: Lookups) -> Tensor:
        """Whether the value that is asked for is among the keys of the query: bool [B, n, H]."""
        asked, place, length = lookups.asked, lookups.place, lookups.tokens.shape[1]
        heads = self.shape.width // HEAD
        if self.routing == "dense":
            return torch.ones_like(place, dtype=torch.bool)[..., None].expand(-1, -1, heads)
        if self.routing == "window":
            return torch.gt(place, asked - self.shape.window(length))[..., None].expand(-1, -1, heads)
        look = self.look(lookups.tokens)[1]
        spans = SELECT(look.q, look.k, settings=Settings(q_search=look.q_search, **self.shape.settings))
        row = torch.arange(len(asked), device=asked.device)[:, None]
        start, stop = (x.transpose(1, 2)[row, asked] for x in (spans.start, spans.stop))  # [B, n, H, spans]
        wanted = place[..., None, None]
        far = ((start <= wanted) & (wanted < stop)).any(-1)
        return torch.logical_or(far, (place > asked - spans.window)[..., None])


def write_lookup(path: Path, network: LookupNetwork, facts: Mapping[str, Any]) -> None:
    """Write a model file, atomically; float16."""
    described = {
        "format": FORMAT, "version": VERSION, "architecture": asdict(network.shape), "routing": network.routing,
        "training": dict(facts),
    }  # fmt: skip
    write_weights(path, network.state_dict(), described)


def read_lookup(path: Path) -> LookupNetwork:
    """The network of a model file of ``write_lookup``. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> LookupNetwork:
        shape = LookupShape(**described["architecture"])
        check_architecture(described["architecture"], lambda: LookupNetwork(shape, described["routing"]), state)
        network = LookupNetwork(shape, described["routing"])
        network.load_state_dict(state)
        return network

    return read_weights(path, FORMAT, VERSION, build, what="lookup network of attn. `attn train superlinear` makes one")
