"""TransNormerLLM (TNL): the language model built on lightning attention.

Paper: arXiv 2405.17381, arXiv 2307.14995. Specification: methods/lightning.md, section 3.5.
x <- x + GLA(SRMSNorm(x)); x <- x + SGLU(SRMSNorm(x)); no biases. ``variant="tnl_v2"`` is the newer example module:
SiLU on v too, LayerNorm after attention, a low-rank sigmoid gate.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention.equations import accumulator
from ..attention.lightning.decay import Decay, Settings, slopes
from ..attention.lightning.operator import lightning_attention, recurrent, reference

Variant = Literal["tnl", "tnl_v2"]
Path = Literal["blocked", "recurrent", "reference"]
_INIT_STD = 0.02


class TNLState(NamedTuple):
    """What one block remembers of its past: ``kv`` [B, H, D', d] and the number of tokens seen."""

    kv: Tensor
    length: int

    @property
    def nbytes(self) -> int:
        """Of the state, however many tokens it has seen."""
        return self.kv.nbytes


def srms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, in float32 (or float64), no gain; shape and dtype of ``x``."""
    wide = x.to(accumulator(x.dtype))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class SRMSNorm(nn.Module):
    """``srms_norm`` as a module without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return srms_norm(x)


class LRPE(nn.Module):
    """Learnt rotation by relative position: [B, H, L, d] -> [B, H, L, 2d], so that q.k picks up cos(theta (t - j))."""

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        channel = torch.arange(num_heads * head_dim, dtype=torch.float32).reshape(num_heads, 1, head_dim)
        self.theta = nn.Parameter(10000 ** (-2 * channel / (num_heads * head_dim)))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """``start``: position of the first token."""
        theta = self.theta.to(accumulator(x.dtype))
        position = torch.arange(start, start + x.shape[2], device=x.device, dtype=theta.dtype)[:, None]
        angle = theta * position  # [H, L, d]
        return torch.cat([x * angle.cos(), x * angle.sin()], dim=-1).to(x.dtype)


class GLA(nn.Module):
    """Gated linear attention of one layer.

    Parameters
    ----------
    dim, num_heads : int
        Width of the model; heads of ``hidden_dim / num_heads`` channels.
    layer, num_layers, decay
        Choose the slopes, see ``lightning.slopes``.
    hidden_dim : int, optional
        Width of q, k, v together; default ``dim``.
    lrpe : bool
        Rotate q and k by position (layer 0 of the released models).
    variant : {"tnl", "tnl_v2"}
    """

    slope: Tensor

    def __init__(
        self, dim: int, num_heads: int, *, layer: int = 0, num_layers: int = 1, decay: Decay = "code",
        hidden_dim: int | None = None, lrpe: bool = False, variant: Variant = "tnl",
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = dim if hidden_dim is None else hidden_dim
        if hidden % num_heads:
            raise ValueError(f"{num_heads} heads do not divide the width {hidden}; choose a multiple.")
        if variant not in ("tnl", "tnl_v2"):
            raise ValueError(f"variant is tnl or tnl_v2, not {variant!r}.")
        self.num_heads, self.variant = num_heads, variant
        self.register_buffer(
            "slope", slopes(num_heads, layer=layer, num_layers=num_layers, decay=decay), persistent=False
        )
        self.position = LRPE(num_heads, hidden // num_heads) if lrpe else None
        gated = variant == "tnl_v2"
        self.qkvu = nn.Linear(dim, (3 if gated else 4) * hidden, bias=False)
        self.gate = (
            nn.Sequential(
                nn.Linear(dim, hidden // num_heads, bias=False), nn.Linear(hidden // num_heads, hidden, bias=False)
            )
            if gated
            else None
        )
        self.norm: nn.Module = nn.LayerNorm(hidden) if gated else SRMSNorm()
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(
        self, x: Tensor, *, state: TNLState | None = None, mask: Tensor | None = None, path: Path = "blocked"
    ) -> tuple[Tensor, TNLState]:
        """x [B, L, dim] -> out [B, L, dim] and the state after the last token.

        ``mask`` (bool [B, L], False = padding) goes with ``path="blocked"``; the other paths are the slow equations.
        """
        parts = self.qkvu(x).chunk(4 if self.gate is None else 3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts[:3])  # [B, H, L, d]
        q, k = F.silu(q), F.silu(k)
        if self.gate is not None:
            v = F.silu(v)
        seen = 0 if state is None else state.length
        if self.position is not None:
            q, k = self.position(q, seen), self.position(k, seen)
        kv = None if state is None else state.kv
        out, kv = _attend(q, k, v, self.slope, kv, mask, path)
        out = self.norm(out.transpose(1, 2).flatten(2))  # [B, L, hidden]
        gate = parts[3] if self.gate is None else torch.sigmoid(self.gate(x))
        projected: Tensor = self.out(gate * out)
        return projected, TNLState(kv, seen + x.shape[1])


def _attend(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor, state: Tensor | None, mask: Tensor | None, path: Path
) -> tuple[Tensor, Tensor]:
    """One of the three equal formulations; the quadratic one starts from nothing."""
    if path == "blocked":
        out, last = lightning_attention(q, k, v, slope, state=state, mask=mask, return_state=True)
        return out, last
    if mask is not None or (path == "reference" and state is not None):
        raise ValueError(f"path {path!r} takes no {'mask' if mask is not None else 'state'}: use path='blocked'.")
    out, last = recurrent(q, k, v, slope, state)
    return (reference(q, k, v, settings=Settings(decay="custom", slope=slope)) if path == "reference" else out), last


class SGLU(nn.Module):
    """(W1 x * W2 x) W3: a gated linear unit without activation."""

    def __init__(self, dim: int, glu_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, glu_dim, bias=False)
        self.w2 = nn.Linear(dim, glu_dim, bias=False)
        self.w3 = nn.Linear(glu_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w3(self.w1(x) * self.w2(x))
        return out


class TNLBlock(nn.Module):
    """One layer of TNL. ``glu_dim`` defaults to 2.75 dim (2816 for 1024); the other arguments are ``GLA``'s.

    Examples
    --------
    >>> import torch
    >>> block = TNLBlock(64, 4, lrpe=True)
    >>> prompt, state = block(torch.randn(1, 10, 64))
    >>> token, state = block(torch.randn(1, 1, 64), state=state)
    >>> token.shape, state.length
    (torch.Size([1, 1, 64]), 11)
    """

    def __init__(
        self, dim: int, num_heads: int, *, layer: int = 0, num_layers: int = 1, decay: Decay = "code",
        hidden_dim: int | None = None, glu_dim: int | None = None, lrpe: bool = False, variant: Variant = "tnl",
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm = SRMSNorm()
        self.attention = GLA(
            dim, num_heads, layer=layer, num_layers=num_layers, decay=decay, hidden_dim=hidden_dim, lrpe=lrpe,
            variant=variant,
        )  # fmt: skip
        self.mlp = SGLU(dim, dim * 11 // 4 if glu_dim is None else glu_dim)

    def forward(
        self, x: Tensor, *, state: TNLState | None = None, mask: Tensor | None = None, path: Path = "blocked"
    ) -> tuple[Tensor, TNLState]:
        """x [B, L, dim] -> x [B, L, dim] and the state, as ``GLA``."""
        mixed, state = self.attention(self.norm(x), state=state, mask=mask, path=path)
        x = x + mixed
        return x + self.mlp(self.norm(x)), state


class TNL(nn.Module):
    """A TNL language model: tokens int64 [B, L] -> logits [B, L, vocabulary] and one state per layer.

    Defaults are those of the 385M model. LRPE in the first layer only. The head is not tied to the embedding.
    """

    def __init__(
        self, vocab_size: int = 64000, dim: int = 1024, num_layers: int = 24, num_heads: int = 8, *,
        glu_dim: int | None = None, decay: Decay = "code", variant: Variant = "tnl", padding: int | None = None,
        scale_embedding: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale = math.sqrt(dim) if scale_embedding else 1.0
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=padding)
        self.blocks = nn.ModuleList(
            TNLBlock(
                dim, num_heads, layer=layer, num_layers=num_layers, decay=decay, glu_dim=glu_dim, lrpe=layer == 0,
                variant=variant,
            )
            for layer in range(num_layers)
        )  # fmt: skip
        self.norm = SRMSNorm()
        self.head = nn.Linear(dim, vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Linear maps and embedding normal(0, 0.02), the padding row 0."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    module.weight.normal_(0.0, _INIT_STD, generator=generator)
            if self.embedding.padding_idx is not None:
                self.embedding.weight[self.embedding.padding_idx].zero_()

    def forward(
        self, tokens: Tensor, *, states: list[TNLState] | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, list[TNLState]]:
        """``states``: of the tokens before, to go on decoding."""
        x = self.embedding(tokens) * self.scale
        last = []
        for i, block in enumerate(self.blocks):
            x, state = block(x, state=None if states is None else states[i], mask=mask)
            last.append(state)
        return self.head(self.norm(x)), last
