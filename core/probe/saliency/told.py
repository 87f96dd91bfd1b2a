"""What an answer came to, as arrays, numbers and sections of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.loaded import Loaded
from ...report.sections import Curve, Facts, Section, Table, Trust, Words
from .decode import Floats, GroundedAnswer
from .examine import Examined
from .question import SPANS, tokeniser_of

SHOWN_TOKENS = 400
"""Text tokens that the figure's map has columns for, the last ones."""


def shares(answer: GroundedAnswer, layers: Sequence[int], *, attention: bool = False) -> Floats:
    """Of each token, the share on each of ``SPANS`` in the layers of the score, [G, 4]."""
    return np.stack(
        [(one.attention_shares if attention else one.shares)[list(layers)].mean(0) for one in answer.tokens]
    )


def metrics_of(found: Examined) -> dict[str, float]:
    """Numbers of the model's own answer, and of the mitigated one."""
    metrics = _numbers(found.plain, found.how.layers)
    if found.mitigated is not None:
        again = _numbers(found.mitigated, found.how.layers)
        metrics |= {f"{name}_mitigated": again[name] for name in ("tokens", "score", "flagged", "seconds_per_token")}
        metrics["answers_equal"] = float(found.mitigated.text == found.plain.text)
    return metrics


def _numbers(answer: GroundedAnswer, layers: Sequence[int]) -> dict[str, float]:
    on = shares(answer, layers).mean(0)
    return {
        "tokens": len(answer.tokens), "score": float(answer.scores.mean()),
        "flagged": len(flagged(answer)),
        **{f"on_{name}": float(value) for name, value in zip(SPANS, on, strict=True)},
        "seconds_per_token": answer.seconds / len(answer.tokens),
    }  # fmt: skip


def sections_of(found: Examined) -> tuple[Section, ...]:
    """Coloured texts, the curve, and tables of tokens, candidates and layers."""
    plain, layers = found.plain, found.how.layers
    on = SPANS[1] if len(found.asked.visual) else SPANS[2]
    out: list[Section] = [Trust("trust", found.trust)] if found.trust else []
    out += [
        Facts("answers", {"answer": plain.text, "flagged": flagged(plain)}, line=_said(plain)),
        Words(
            "drops", drops(plain), title="flagged: the stronger the colour, the further below the tokens before",
            printed=False,
        ),
        Words(
            "grounding", [(token.text, float(value)) for token, value in zip(
                plain.tokens, shares(plain, layers)[:, SPANS.index(on)], strict=True
            )], title=f"share of the saliency on the {on}", printed=False,
        ),
        Curve(
            "scores", {"score": plain.scores.tolist(), "threshold": [token.threshold for token in plain.tokens]},
            xlabel="token", title="Saliency token by token", printed=len(plain.tokens) > 1,
        ),
        Table("tokens", token_rows(plain, found), title="Tokens", printed=False),
        Table("candidates", candidate_rows(plain), title="Candidates of each token", detail=True),
        Table("layers", layer_rows(plain), title="Shares by layer, mean over the tokens", detail=True),
    ]  # fmt: skip
    if (again := found.mitigated) is not None:
        out += [
            Table("mitigated", [_row("as it is", plain), _row("mitigated", again)], title="Decoded again"),
            Words("drops_mitigated", drops(again), title="flagged in the mitigated answer", printed=False),
            Table("tokens_mitigated", token_rows(again, found), title="Tokens of the mitigated answer", printed=False),
        ]
    return tuple(section for section in out if section.rows())


def drops(answer: GroundedAnswer) -> list[tuple[str, float]]:
    """Each token with how far below its threshold it is, as a share of it; 0 where it is not flagged."""
    return [
        (token.text, 1 - max(0.0, token.score) / token.threshold if token.flagged else 0.0) for token in answer.tokens
    ]


def flagged(answer: GroundedAnswer) -> list[str]:
    """Tokens of low saliency."""
    return [token.text for token in answer.tokens if token.flagged]


def _said(answer: GroundedAnswer) -> str:
    low = ", ".join(repr(text) for text in flagged(answer)) or "none"
    return f"answer: {answer.text}; flagged, of {len(answer.tokens)} tokens: {low}"


def _row(name: str, answer: GroundedAnswer) -> dict[str, Any]:
    count = len(answer.tokens)
    return {
        "decoding": name, "answer": answer.text, "tokens": count, "score": float(answer.scores.mean()),
        "flagged": len(flagged(answer)),
        "drawn_again": sum(max(0, token.tries - 1) for token in answer.tokens),
        "fallbacks": sum(token.fallback for token in answer.tokens), "seconds_per_token": answer.seconds / count,
    }  # fmt: skip


def token_rows(answer: GroundedAnswer, found: Examined) -> list[dict[str, Any]]:
    """A row a token; the corrected score times the root of the keys it is a mean over, which its norm divides by."""
    on = shares(answer, found.how.layers)
    looked = shares(answer, found.how.layers, attention=True)
    rows = []
    for number, token in enumerate(answer.tokens):
        keys = max(1, len(token.normalised) - found.asked.behind)
        rows.append(
            {
                "number": number + 1, "token": token.text, "probability": token.probability, "score": token.score,
                "score_length_corrected": token.score * keys**0.5, "threshold": token.threshold,
                "flagged": "yes" if token.flagged else "no", "tries": token.tries,
                "fallback": "yes" if token.fallback else "no",
                **{f"on_{name}": float(value) for name, value in zip(SPANS, on[number], strict=True)},
                **{f"attention_on_{name}": float(value) for name, value in zip(SPANS, looked[number], strict=True)},
            }
        )  # fmt: skip
    return rows


def candidate_rows(answer: GroundedAnswer) -> list[dict[str, Any]]:
    return [
        {"number": number, "candidate": text, "probability": probability, "score": value}
        for number, token in enumerate(answer.tokens, 1)
        for text, probability, value in token.candidates
    ]


def layer_rows(answer: GroundedAnswer) -> list[dict[str, Any]]:
    on = np.mean([token.shares for token in answer.tokens], 0)
    looked = np.mean([token.attention_shares for token in answer.tokens], 0)
    return [
        {
            "layer": layer, **{f"on_{name}": float(v) for name, v in zip(SPANS, on[layer], strict=True)},
            **{f"attention_on_{name}": float(v) for name, v in zip(SPANS, looked[layer], strict=True)},
        }
        for layer in range(len(on))
    ]  # fmt: skip


def arrays_of(found: Examined) -> dict[str, NDArray[Any]]:
    """What the figure is made of; a token's row ends with the token before it, zeros behind."""
    plain = found.plain
    keys = len(found.asked.ids) + len(plain.tokens) - 1
    image = found.asked.visual.cpu().numpy()
    whole = np.stack([_padded(token.normalised, keys) for token in plain.tokens])
    arrays = {
        "score": plain.scores, "threshold": np.array([token.threshold for token in plain.tokens]),
        "probability": np.array([token.probability for token in plain.tokens]),
        "spans": np.stack([token.spans for token in plain.tokens]),
        "shares": np.stack([token.shares for token in plain.tokens]),
        "attention_shares": np.stack([token.attention_shares for token in plain.tokens]),
        "map": whole, "attention": np.stack([_padded(token.attention, keys) for token in plain.tokens]),
        "shown": shown_map(plain, found, keys), "image": whole[:, image].mean(0) if len(image) else np.zeros(0),
        "edges": np.array(found.asked.edges(keys)), "layers": np.array(found.how.layers),
    }  # fmt: skip
    if found.mitigated is not None:
        again = found.mitigated
        arrays |= {
            "score_mitigated": again.scores,
            "threshold_mitigated": np.array([t.threshold for t in again.tokens]),
        }
    return arrays


def shown_map(answer: GroundedAnswer, found: Examined, keys: int) -> Floats:
    """The map for display (specification, section 3.6): image columns removed, each layer's range made [0, 1], summed,
    log1p, and made [0, 1] again; the last ``SHOWN_TOKENS`` text tokens, [G, N]."""
    text = text_columns(found, keys)
    layers = np.stack([_padded(token.rows, keys)[:, text] for token in answer.tokens], 1)  # [L, G, N]
    low, high = layers.min((1, 2), keepdims=True), layers.max((1, 2), keepdims=True)
    summed = np.log1p(((layers - low) / np.where(high > low, high - low, 1)).sum(0))
    span = np.ptp(summed)
    return np.asarray((summed - summed.min()) / (span or 1.0))


def text_columns(found: Examined, keys: int) -> NDArray[np.int64]:
    """Keys that the figure shows: no image, the last ones."""
    outside = np.setdiff1d(np.arange(keys), found.asked.visual.cpu().numpy())
    return outside[-SHOWN_TOKENS:]


def facts_of(found: Examined, loaded: Loaded) -> Mapping[str, Any]:
    """Texts of the tokens that the figure names, and how the answer was decoded."""
    tokeniser = tokeniser_of(loaded)
    ids = [*found.asked.ids, *(token.id for token in found.plain.tokens)]
    keys = len(ids) - 1
    return {
        "answer": found.plain.text, "ended": found.plain.ended, "tokens": [token.text for token in found.plain.tokens],
        "columns": [tokeniser.decode([ids[key]]) for key in text_columns(found, keys)],
        "layers_scored": list(found.how.layers), "norm": found.how.norm,
        **({"answer_mitigated": found.mitigated.text} if found.mitigated is not None else {}),
    }  # fmt: skip


def _padded(row: Floats, keys: int) -> Floats:
    return np.pad(row, [(0, 0)] * (row.ndim - 1) + [(0, keys - row.shape[-1])])
