"""An answer token by token, and what each token stands on; with SGRS and LocoRE where they are asked for.

Specification: methods/lvlms-saliency.md, sections 3.2 to 3.5. The token at position P is chosen by SGRS; LocoRE acts on
the row that it gives the next token, in the graph that SGRS differentiates, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.loaded import Loaded
from ...prune.vlm.greedy import ends_of
from .locore import Locore
from .matrices import Norm, matrix_normalised, row_normalised, score
from .one_row import NextToken, OneRow
from .question import SPANS, SpannedPrompt, decoder_of, tokeniser_of
from .sgrs import Pick, Sgrs, pick, threshold
from .whole import WholePass

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is decoded and scored.

    Parameters
    ----------
    layers : tuple of int
        Whose saliency makes the score.
    norm : {"row", "matrix", "none"}
    signed : bool
    sgrs : Sgrs
        K, alpha and W hold without rejection, too: candidates that are scored, and which tokens are flagged.
    rejects : bool
        Draw by SGRS; else the most probable token is taken.
    released : bool
        The released code's score, which is 0 for every candidate: its SGRS accepts the first draw.
    locore : Locore or None
    first : bool
        LocoRE acts on the row of the prompt's last token, too.
    longest : int
        Tokens at most.
    seed : int
    """

    layers: tuple[int, ...]
    norm: Norm = "row"
    signed: bool = False
    sgrs: Sgrs = field(default_factory=Sgrs)
    rejects: bool = False
    released: bool = False
    locore: Locore | None = None
    first: bool = False
    longest: int = 64
    seed: int = 77


@dataclass(frozen=True, slots=True)
class GroundedToken:
    """One token of an answer.

    Parameters
    ----------
    id : int
    text : str
    probability, score : float
    threshold : float
        alpha times the mean score of the W tokens before; 0 for the first.
    tries : int
        Draws of SGRS; 0 where the most probable token was taken.
    fallback : bool
    candidates : tuple of (str, float, float)
        Text, probability and score of the K most probable tokens.
    rows : ndarray, shape (L, T)
        Saliency of the predicting row in the layers of the score, mean over heads, not normalised.
    normalised : ndarray, shape (T,)
        The same normalised, mean over those layers.
    attention : ndarray, shape (T,)
        Attention of that row, mean over heads and those layers.
    shares, attention_shares : ndarray, shape (depth, 4)
        Of every layer, on each of ``SPANS``; each row sums to 1, or is 0.
    spans : ndarray, shape (3,)
        Mean normalised saliency of a key of output, system, image (NaN where there is none): the score is the first.
    """

    id: int
    text: str
    probability: float
    score: float
    threshold: float
    tries: int
    fallback: bool
    candidates: tuple[tuple[str, float, float], ...]
    rows: Floats
    normalised: Floats
    attention: Floats
    shares: Floats
    attention_shares: Floats
    spans: Floats

    @property
    def flagged(self) -> bool:
        """It stands less on what is behind the image than the tokens before it did."""
        return self.score < self.threshold


@dataclass(frozen=True, slots=True)
class GroundedAnswer:
    """All of an answer.

    Parameters
    ----------
    text : str
    tokens : tuple of GroundedToken
    seconds : float
        Of the decoding.
    ended : bool
        By a token that ends answers; else it was cut.
    """

    text: str
    tokens: tuple[GroundedToken, ...]
    seconds: float
    ended: bool

    @property
    def scores(self) -> Floats:
        return np.array([token.score for token in self.tokens])


def longest_of(loaded: Loaded, wanted: int) -> int:
    """Tokens of an answer: fewer where the model's own settings allow fewer, as it was trained to answer so."""
    return min(wanted, getattr(loaded.model.generation_config, "max_new_tokens", None) or wanted)


def decode(
    loaded: Loaded, asked: SpannedPrompt, how: Decoding, *, forced: Sequence[int] | None = None,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> GroundedAnswer:  # fmt: skip
    """Decode an answer, or follow one that is given.

    Parameters
    ----------
    loaded : Loaded
    asked : SpannedPrompt
    how : Decoding
    forced : sequence of int, optional
        The answer's tokens: nothing is chosen.
    step : callable (done, total)

    Raises
    ------
    UsageError
        If the model cannot run, or its attention is of an unknown class.
    """
    norms = None
    if how.norm == "matrix":
        forced = _greedy(loaded, asked, how.longest) if forced is None else forced
        norms = _norms(loaded, asked, forced, how.layers)
    start, tokeniser = time.perf_counter(), tokeniser_of(loaded)
    reader = OneRow(loaded.model, decoder_of(loaded), how.locore)
    random, ends = np.random.default_rng(how.seed), ends_of(loaded.model)
    token, found = reader.start(asked.inputs), list[GroundedToken]()
    total = len(forced) if forced is not None else longest_of(loaded, how.longest)
    for number in range(total):
        acts = how.locore is not None and (number > 0 or how.first)
        seen = reader.step(token, behind=asked.behind if acts else None)
        scored = ScoredCandidates(seen, asked, how, None if norms is None else norms[number])
        if forced is not None:
            one = scored.taken(tokeniser, [t.score for t in found], forced[number])
        else:
            one = scored.chosen(tokeniser, [t.score for t in found], random.random(how.sgrs.tries).tolist())
        found.append(one)
        token = torch.tensor([one.id], device=token.device)
        step(number + 1, total)
        if forced is None and one.id in ends:
            break
    text = tokeniser.decode([one.id for one in found], skip_special_tokens=True).strip()
    ended = bool(found) and found[-1].id in ends
    return GroundedAnswer(text, tuple(found), time.perf_counter() - start, ended)


class ScoredCandidates:
    """The next token's candidates with their scores."""

    def __init__(self, seen: NextToken, asked: SpannedPrompt, how: Decoding, norms: Tensor | None) -> None:
        self.seen, self.asked, self.how, self.norms = seen, asked, how, norms
        scaled = seen.log_probabilities / (how.sgrs.temperature if how.rejects else 1.0)
        self.probabilities = scaled.softmax(-1)
        count = min(how.sgrs.candidates, len(scaled)) if norms is None else 0  # a whole pass each would be needed
        best = self.probabilities.topk(count)
        self.best = best.values.double().cpu().numpy(), best.indices
        self.scores = self._scores(best.indices) if count else np.zeros(0)

    def chosen(self, tokeniser: object, before: Sequence[float], uniforms: Sequence[float]) -> GroundedToken:
        """The token that SGRS takes, or the most probable one."""
        values, ids = self.best
        if not self.how.rejects:
            return self.taken(tokeniser, before, int(ids[0]))
        picked = pick(values, lambda index: float(self.scores[index]), uniforms, before, self.how.sgrs)
        return self._token(tokeniser, int(ids[picked.index]), picked)

    def taken(self, tokeniser: object, before: Sequence[float], token: int) -> GroundedToken:
        """A token that is given."""
        value = float(self._scores(torch.tensor([token]))[0])
        least = threshold(before, self.how.sgrs.alpha, self.how.sgrs.history)
        return self._token(tokeniser, token, Pick(0, value, least, 0, False))

    def _normalised(self, rows: Tensor) -> Tensor:
        if self.norms is not None:
            return matrix_normalised(rows, self.norms[:, None])
        return row_normalised(rows) if self.how.norm == "row" else rows

    def _scores(self, tokens: Tensor) -> Floats:
        """Of K candidates, [K]: one forward pass, K backward passes of one token."""
        if self.how.released:  # the loss does not reach the row that the released code reads
            return np.zeros(len(tokens))
        rows = self.seen.rows(tokens, self.how.layers, signed=self.how.signed)
        return score(self._normalised(rows), self.asked.behind).double().cpu().numpy()

    def _token(self, tokeniser: object, token: int, picked: Pick) -> GroundedToken:
        every = tuple(range(len(self.seen.attention)))
        rows = self.seen.rows(torch.tensor([token]), every, signed=self.how.signed)[0]
        attention = self.seen.mean_attention(every)
        layers = list(self.how.layers)
        own = self._normalised(rows[layers]).mean(0)
        edges = self.asked.edges(self.seen.tokens)
        parts = (own[edges[1] :], own[: edges[0]], own[edges[0] : edges[1]])
        values, ids = self.best
        return GroundedToken(
            token, _text(tokeniser, token), float(self.seen.log_probabilities[token].exp()), picked.score,
            picked.threshold, picked.tries, picked.fallback,
            tuple(
                (_text(tokeniser, int(one)), float(p), float(s))
                for one, p, s in zip(ids, values, self.scores, strict=False)
            ),
            _array(rows[layers]), _array(own), _array(attention[layers].mean(0)), _shares(rows.abs(), edges),
            _shares(attention, edges), np.array([float(part.mean()) if len(part) else np.nan for part in parts]),
        )  # fmt: skip


def _shares(rows: Tensor, edges: tuple[int, ...]) -> Floats:
    """Of rows [L, T], the share on each of ``SPANS``, [L, 4]."""
    starts = (0, *edges[:-1])
    sums = torch.stack([rows[:, a:b].sum(-1) for a, b in zip(starts, edges, strict=True)], -1)
    assert sums.shape[-1] == len(SPANS)
    whole = sums.sum(-1, keepdim=True)
    return _array(torch.where(whole > 0, sums / whole.masked_fill(whole == 0, 1), 0.0))


def _array(values: Tensor) -> Floats:
    return values.double().cpu().numpy()


def _text(tokeniser: object, token: int) -> str:
    text: str = tokeniser.decode([token])  # type: ignore[attr-defined]
    return text


def _greedy(loaded: Loaded, asked: SpannedPrompt, longest: int) -> list[int]:
    """The most probable answer, nothing scored."""
    reader, ends = OneRow(loaded.model, decoder_of(loaded)), ends_of(loaded.model)
    token, found = reader.start(asked.inputs), list[int]()
    while len(found) < longest_of(loaded, longest) and not (found and found[-1] in ends):
        found.append(int(reader.step(token).logits.argmax()))
        token = torch.tensor([found[-1]], device=token.device)
    return found


def _norms(loaded: Loaded, asked: SpannedPrompt, answer: Sequence[int], layers: tuple[int, ...]) -> list[Tensor]:
    """Frobenius norms of the whole maps of each token's loss, [L] each: a whole backward pass a token."""
    inputs = asked.answered(torch.tensor(answer))
    whole = WholePass(loaded.model, decoder_of(loaded), inputs, layers)
    first = len(asked.ids) - 1
    return [whole.frobenius(first + number, token) for number, token in enumerate(answer)]
