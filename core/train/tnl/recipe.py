"""Loss and evaluation of the recipe: the next token, and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .options import TnlOptions

AT_ONCE = 16384
"""Tokens of a batch where nothing is learnt."""
_SALT = 2405
"""First number of the seeds of batches."""


def optimizer(network: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with betas (0.9, 0.95), as the specification has it (section 5); norms and rates of positions do not decay.

    The loop sets the learning rate.
    """
    matrices = [parameter for parameter in network.parameters() if parameter.ndim == 2]
    rest = [parameter for parameter in network.parameters() if parameter.ndim != 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95))


def training_batch(stream: Tensor, seed: int, step: int, batch: int, length: int) -> Tensor:
    """The sequences of a step, anywhere in the text: int64 [batch, length + 1]; the same for both networks.

    ``stream`` int64 [N] has more than ``length`` tokens.
    """
    starts = np.random.default_rng((_SALT, seed, step)).integers(len(stream) - length, size=batch)
    return stream[torch.from_numpy(starts)[:, None] + torch.arange(length + 1)]


def next_token_loss(network: nn.Module, tokens: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy, in nats, of each token of ``tokens`` [B, L + 1] but the first."""
    logits = network(tokens[:, :-1])[0].float()
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def token_losses(network: nn.Module, stream: Tensor, window: int, device: torch.device) -> Tensor:
    """Cross-entropy, in nats, of every token but the first, each with what stands before it in its window.

    Parameters
    ----------
    stream : Tensor of int64 [1 + W * window]
        The first token is context alone. For every window that divides the text the same tokens are judged.
    window : int

    Returns
    -------
    Tensor of float64 [W, window], on the CPU
    """
    starts = torch.arange(0, len(stream) - 1, window)
    tokens = stream[starts[:, None] + torch.arange(window + 1)]  # [W, window + 1]
    parts = [
        next_token_loss(network, part.to(device), "none").view(len(part), window).double().cpu()
        for part in torch.split(tokens, max(1, AT_ONCE // window))
    ]
    return torch.cat(parts)


def bits_per_byte(losses: Tensor, sizes: Tensor) -> float:
    """Nats of tokens, of any shape, over the bytes of the same tokens, in bits."""
    return float(losses.sum()) / math.log(2) / int(sizes.sum())


class LanguageRecipe:
    """A network that learns a text.

    Parameters
    ----------
    network : Module
        Tokens [B, L] to logits and states.
    options : TnlOptions
        Its seed is that of the batches.
    train, held_out : Tensor of int64
        ``held_out`` as ``token_losses`` takes it, for windows of the length of training.
    sizes : Tensor of int64 [vocabulary]
        Bytes of each token.
    device : torch.device
    """

    score = "byte_likelihood"
    stalled_below = ("byte_likelihood", 2.0**-5)

    def __init__(
        self, network: nn.Module, options: TnlOptions, train: Tensor, held_out: Tensor, sizes: Tensor,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.model = network
        self.options, self.train, self.held_out, self.sizes, self.device = options, train, held_out, sizes, device

    def loss(self, step: int) -> Tensor:
        """Mean over the tokens of a batch."""
        options = self.options
        tokens = training_batch(self.train, options.compute.seed, step, options.batch, options.length)
        return next_token_loss(self.model, tokens.to(self.device))

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """``bits_per_byte`` on validation documents, and the mean probability of a byte, 2 to the minus that."""
        losses = token_losses(model, self.held_out, self.options.length, self.device)
        bits = bits_per_byte(losses, self.sizes[self.held_out[1:]])
        return {"bits_per_byte": bits, "byte_likelihood": 2.0**-bits}
