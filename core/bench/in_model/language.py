"""A causal language model as it is measured: prefill, decode, likelihood of a text, whatever attention it runs with."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.hf import quiet
from ...models.loaded import Loaded
from ...options import OptionError
from ..timing import Timing, run_once

PIECE = 256  # positions whose logits are in memory together: they are 49152 numbers each for SmolLM2
SAME = 1e-3  # of the largest logit (or four roundings of it): one matrix product in other pieces


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What one pass over a prompt leaves.

    Parameters
    ----------
    hidden : Tensor [1, n, d]
        Of every token, behind the last norm.
    kind : type
        Of the decoder's output, in which they stood.
    logits : Tensor [V]
        Of the token that follows.
    cache
        Of transformers, with the prompt's keys and values.
    """

    hidden: Tensor
    kind: type[Any]
    logits: Tensor
    cache: Any


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How well a text was foretold.

    Parameters
    ----------
    nll : Tensor, float64 [n - 1]
        -log p of tokens 1 to n - 1, each given all before it, in nats.
    best : Tensor, int64 [n]
        The most probable token behind each one.
    """

    nll: Tensor
    best: Tensor

    def perplexity(self, start: int = 1, stop: int | None = None) -> float:
        """exp of the mean over tokens ``start`` to ``stop`` - 1; NaN of none."""
        return self.nll[start - 1 : None if stop is None else stop - 1].mean().exp().item()


class Language:
    """A model from ``load_model(name, "causal")``.

    ``configured`` are parameters of operators that its configuration asks for, and which nothing runs with here.

    Raises
    ------
    UsageError
        If its attention cannot be chosen, or it does not keep a cache of keys and values.
    """

    def __init__(self, loaded: Loaded, device: torch.device) -> None:
        self.model, self.tokeniser, self.device = loaded.model, loaded.processor.tokeniser, device
        name, known = type(self.model).__name__, inspect.signature(self.model.forward).parameters
        self._decoder = self.model.get_decoder()  # the model without its head
        self._cache = "cache" if "cache" in known else "past_key_values"  # of transformers 5.20 on, and before
        if self._cache not in known or "logits_to_keep" not in known or self._decoder is self.model:
            raise OptionError(f"{{model}}: {name} does not decode with a cache of keys and values as transformers' do.")
        self.attend_by("sdpa")
        config = self.model.config.get_text_config()
        self.configured: dict[str, Any] = getattr(config, "attn_parameters", None) or {}
        config.attn_parameters = {}  # what runs is what the options say

    @property
    def positions(self) -> int | None:
        """Tokens that the model was made for; None: it does not say."""
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(most) if most else None

    @property
    def parameters(self) -> int:
        """Numbers that a token is multiplied with on its way to its last hidden state."""
        table: Tensor = self.model.get_input_embeddings().weight
        return sum(int(p.numel()) for p in self._decoder.parameters()) - table.numel()

    def attend_by(self, implementation: str) -> None:
        """Choose the attention of all layers by its name in transformers. Raises ``UsageError`` where it cannot."""
        try:
            with quiet():
                self.model.set_attn_implementation(implementation)
        except (ValueError, ImportError) as error:
            raise OptionError(
                f"{{model}}: {type(self.model).__name__} cannot run {implementation} ({error})."
            ) from None
        if self.model.config._attn_implementation != implementation:
            raise OptionError(f"{{model}}: the attention of {type(self.model).__name__} cannot be chosen.")

    @torch.no_grad()
    def prefill(self, tokens: Sequence[int]) -> Prefilled:
        """One pass over a prompt, which fills a cache; logits of the last position only."""
        with self._decoded() as kept:
            out = self.model(input_ids=self._row(tokens), use_cache=True, logits_to_keep=1)
        if not kept:
            raise OptionError(f"{{model}}: {type(self.model).__name__} does not run its decoder as transformers' do.")
        return Prefilled(kept[0].last_hidden_state, type(kept[0]), out.logits[0, -1], getattr(out, self._cache))

    @torch.no_grad()
    def extend(self, cache: Any, tokens: Sequence[int]) -> Tensor:
        """Logits [V] behind further tokens, which are added to the cache."""
        out = self.model(input_ids=self._row(tokens), use_cache=True, logits_to_keep=1, **{self._cache: cache})
        logits: Tensor = out.logits[0, -1]
        return logits

    def decode(self, start: Prefilled, count: int) -> tuple[list[int], Timing]:
        """The ``count`` most probable tokens, one after the other, and the times of the ``count`` - 1 steps.

        The cache of ``start`` grows by ``count`` - 1 tokens. Raises what the model raises.
        """
        tokens, timing = [int(start.logits.argmax())], Timing()
        for _ in range(count - 1):
            run_once(
                timing, lambda: int(self.extend(start.cache, tokens[-1:]).argmax()), self.device, keep=lambda best: best
            )
            if timing.error is not None:
                raise timing.error
            tokens.append(timing.result)
        return tokens, timing

    def answer(self, cache: Any, question: Sequence[int], count: int) -> list[int]:
        """The ``count`` most probable tokens behind a question; the cache stays as it is."""
        own = copy.deepcopy(cache)
        tokens = [int(self.extend(own, question).argmax())]
        for _ in range(count - 1):
            tokens.append(int(self.extend(own, tokens[-1:]).argmax()))
        return tokens

    @torch.no_grad()
    def likelihood(self, tokens: Sequence[int], run: Prefilled) -> Likelihood:
        """How well each token of a prompt was foretold, from what its prefill left; logits are made in pieces.

        Raises
        ------
        UsageError
            If the logits in pieces are not those of the prefill.
        """
        follows = torch.tensor([*tokens[1:], 0], device=self.device)
        nll, best = [], []
        for start in range(0, len(tokens), PIECE):
            logits = self._head(run.hidden[:, start : start + PIECE], run.kind)[0].float()  # [PIECE, V]
            chosen = logits.gather(1, follows[start : start + PIECE, None])[:, 0]
            nll.append(logits.logsumexp(-1).double() - chosen.double())
            best.append(logits.argmax(-1))
        whole, kind = run.logits.float(), run.logits.dtype
        if (logits[-1] - whole).abs().max() > max(SAME, 4 * torch.finfo(kind).eps) * whole.abs().max():
            raise OptionError(
                f"{{model}}: {type(self.model).__name__} makes logits of more than its last hidden states."
            )
        return Likelihood(torch.cat(nll)[:-1].cpu(), torch.cat(best).cpu())

    def _row(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)], device=self.device)

    @contextmanager
    def _decoded(self) -> Iterator[list[Any]]:
        kept: list[Any] = []
        hook = self._decoder.register_forward_hook(lambda _, __, out: kept.append(out))
        try:
            yield kept
        finally:
            hook.remove()

    def _head(self, hidden: Tensor, kind: type[Any]) -> Tensor:
        """Logits by the model's own forward pass (its head, scale and cap), its layers left out."""
        self._decoder.forward = lambda *_, **__: kind(last_hidden_state=hidden)
        try:
            logits: Tensor = self.model(input_ids=self._row([0] * hidden.shape[1]), use_cache=False).logits
        finally:
            del self._decoder.forward
        return logits
