"""How fast both networks are at each length, in one run: a step of training, and decoding; and what they keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...bench.timing import time_interleaved
from .options import Kind
from .recipe import next_token_loss

STEP = 4096
"""Tokens of a step of training; longer sequences are one a step."""
SLOW = 20.0
"""Seconds; a step of half of it need not be warmed. A shorter one must: timed cold, TNL's, the first of the two at
every length, took up to twice as long."""


def speeds(
    networks: Mapping[Kind, nn.Module], stream: Tensor, lengths: Sequence[int], decoded: int, device: torch.device
) -> dict[tuple[Kind, int], dict[str, float]]:
    """Both networks at each length, by turns.

    Parameters
    ----------
    networks : mapping of kind to Module
    stream : Tensor of int64 [N]
        Tokens to read; repeated where there are too few.
    lengths : sequence of int
    decoded : int
        Tokens that are decoded behind a context of each length.
    device : torch.device

    Returns
    -------
    dict of (kind, length) to
        ``train_tokens_s``, ``decode_tokens_s``: tokens a second, forward and backward pass of ``STEP`` tokens, and one
        token after the other for one sequence. Processor time on a CPU; warm.
        ``kept_bytes``: what the forward pass of such a step keeps for the backward pass.
        ``state_bytes``: what decoding remembers of one sequence.
    """
    found: dict[tuple[Kind, int], dict[str, float]] = {}
    for length in lengths:
        rows = max(1, STEP // length)
        need = rows * length + 1
        tokens = stream.repeat(-(-need // len(stream)))[:need].to(device)
        windows = tokens[:-1].view(rows, length)
        batch = torch.cat([windows, windows[:, -1:]], dim=1)
        steps: dict[str, Callable[[], None]] = {kind: _step(network, batch) for kind, network in networks.items()}
        timed = time_interleaved(steps, device, repeat=1, slow=SLOW)
        begun = {kind: _read(network, tokens[None, :length]) for kind, network in networks.items()}
        decode: dict[str, Callable[[], None]] = {
            kind: _decode(networks[kind], batch[:1, :1], states, decoded) for kind, states in begun.items()
        }
        timed_decode = time_interleaved(decode, device)
        for kind, network in networks.items():
            found[kind, length] = {
                "train_tokens_s": rows * length / timed[kind].seconds(device),
                "decode_tokens_s": decoded / timed_decode[kind].seconds(device),
                "kept_bytes": float(kept_bytes(network, batch)),
                "state_bytes": float(sum(state.nbytes for state in begun[kind])),
            }
    return found


def _step(network: nn.Module, batch: Tensor) -> Callable[[], None]:
    def run() -> None:
        next_token_loss(network, batch).backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)

    return run


@torch.inference_mode()
def _read(network: nn.Module, tokens: Tensor) -> list[Any]:
    """The state behind a context."""
    states: list[Any] = network(tokens)[1]
    return states


def _decode(network: nn.Module, token: Tensor, states: list[Any], count: int) -> Callable[[], None]:
    """Tokens, each the most probable after those before it; room for them is made once, as a decoder does."""
    with torch.inference_mode():
        first, roomy = network(token, states=states)

    @torch.inference_mode()
    def run() -> None:
        logits, current = first, roomy
        for _ in range(count):
            logits, current = network(logits[:, -1:].argmax(-1), states=current)

    return run


def kept_bytes(network: nn.Module, batch: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters aside; each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Any] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no other one gets its address
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        next_token_loss(network, batch)
    return sum(storage.nbytes() for storage in kept.values())
