"""Completion of masked sequences, the surest tokens first, block by block: methods/igpo.md, section 3.1."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class MaskedLanguageModel(Protocol):
    """What sampling needs of a model."""

    mask_id: int
    eos_id: int

    def logits(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits [B, K, V] at ``positions`` int64 [K] (default: all L) of ``tokens`` int64 [B, L]."""
        ...


def transfer_counts(masked: Tensor, steps: int) -> Tensor:
    """How many tokens each step writes, int64 [B, steps]: ``masked`` int64 [B] divided evenly, the first ones more."""
    step = torch.arange(steps, device=masked.device)
    return masked[:, None] // steps + (step < masked[:, None] % steps)


@torch.no_grad()
def complete(
    model: MaskedLanguageModel, tokens: Tensor, prompt: int, *, steps: int, block: int, temperature: float,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Sequences whose masked positions are written; all others stay as they are.

    Parameters
    ----------
    model : MaskedLanguageModel
    tokens : Tensor of int64 [B, P + N]
        Prompts, and completions with masks.
    prompt : int
        P, the same for all.
    steps : int
        Forward passes, a multiple of the number of blocks.
    block : int
        Positions of a block; N is a multiple of it. Blocks are written from left to right.
    temperature : float
        Of the Gumbel noise; 0 takes the likeliest token.
    generator : Generator, optional
        Of the noise, on the device of ``tokens``.

    Returns
    -------
    Tensor of int64 [B, P + N]
    """
    tokens = tokens.clone()
    blocks = (tokens.shape[1] - prompt) // block
    for start in range(prompt, tokens.shape[1], block):
        here = torch.arange(start, start + block, device=tokens.device)
        counts = transfer_counts((tokens[:, here] == model.mask_id).sum(1), steps // blocks)
        for count in counts.T:
            masked = tokens[:, here] == model.mask_id
            if not bool(masked.any()):
                break
            logits = model.logits(tokens, here)[masked].double()  # only what is masked in this block matters
            drawn = _drawn(logits, temperature, generator)
            sure = torch.full(masked.shape, -torch.inf, dtype=torch.float64, device=tokens.device)
            sure[masked] = logits.log_softmax(-1).gather(-1, drawn[:, None])[:, 0]  # of the logits without noise
            rank = sure.argsort(dim=1, descending=True, stable=True).argsort(1)
            written = masked & (rank < count[:, None])
            found = torch.full_like(masked, 0, dtype=tokens.dtype)
            found[masked] = drawn
            tokens[:, here] = torch.where(written, found, tokens[:, here])
        if bool((tokens[:, here] == model.eos_id).all()):
            rest = tokens[:, start + block :]
            rest[rest == model.mask_id] = model.eos_id
            break
    return tokens


def _drawn(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Tokens int64 [M] of float64 logits [M, V]: Gumbel-max, in logarithms, where exp(z) would overflow."""
    if temperature == 0:
        return logits.argmax(-1)
    uniform = torch.rand(logits.shape, dtype=torch.float64, device=logits.device, generator=generator)
    uniform = uniform.clamp_min(torch.finfo(torch.float64).tiny)
    return (logits - temperature * (-uniform.log()).log()).argmax(-1)
