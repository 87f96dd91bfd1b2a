"""A part of a set, asked with all visual tokens and at every point: a record for each sample and point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...models.geometry import Geometry
from ...models.loaded import Loaded
from ..data.samples import QuestionSample
from ..engine.checks import Positions
from ..engine.hooks import pruned
from ..engine.moment import PruneStage
from ..engine.prompts import OfferedAnswer
from ..engine.sites import VisionLanguageSite
from ..engine.trace import Prefill
from ..measure.cost import cost_of
from ..measure.evidence import evidence, padding, padding_share, recall
from ..measure.fidelity import TextAttention, TextWatch, answer_log_probabilities, divergence, same_answer, same_top
from ..measure.nearness import nearness, oracle_agreement
from ..vlm.ask import Answer, PreparedBatch, PreparedPrompt, answers, batch, prepare_file
from .answers import Rule, judged
from .options import QUESTION
from .points import FULL, Point


@dataclass(frozen=True, slots=True)
class Asking:
    """How samples are asked.

    Parameters
    ----------
    prompt : str
        With ``QUESTION`` in it.
    max_new_tokens : int
    positions : {"keep", "compact"}
    rule : {"exact", "vqa"}
        See ``answers.RULES``.
    """

    prompt: str
    max_new_tokens: int
    positions: Positions
    rule: Rule


def score(
    loaded: Loaded, site: VisionLanguageSite, samples: Sequence[QuestionSample], points: Sequence[Point],
    asking: Asking, step: Callable[[int, int], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Records of a part of a set.

    Parameters
    ----------
    samples : sequence of QuestionSample
        They are asked side by side.
    points : sequence of Point
    asking : Asking
    step : callable (done, total)

    Returns
    -------
    list of dict
        With ``error`` for a sample whose picture cannot be read, or taken by the model.
    """
    records: list[dict[str, Any]] = []
    asked: list[QuestionSample] = []
    ready: list[PreparedPrompt] = []
    for sample in samples:
        try:
            ready.append(_prepared(loaded, sample, asking.prompt))
            asked.append(sample)
        except InputError as error:
            records.append({"sample": sample.id, "error": str(error)})
    if not asked:
        return records
    questions = batch(loaded, ready)
    looks, plain, cost = _whole(loaded, site, questions, asking.max_new_tokens)
    step(1, 1 + len(points))
    names = tuple(sample.id for sample in asked)
    for index, sample in enumerate(asked):
        geometry = questions.pictures[index][0]
        records.append(_about(sample, asking, plain[index].text, geometry) | _itself(sample, geometry) | cost[index])
    for number, point in enumerate(points):
        stages = point.pruner.stages(site, point.keep)
        with pruned(
            loaded.model, stages, positions=asking.positions, site=site, pictures=questions.pictures, ids=names
        ) as trace:
            pruned_answers = answers(loaded, questions, max_new_tokens=asking.max_new_tokens)
        for index, sample in enumerate(asked):
            offer = trace.last.offers[index] if trace.last.offers else None
            text = offer.text if offer is not None and offer.taken else pruned_answers[index].text
            about = _about(sample, asking, text, questions.pictures[index][0])
            if offer is not None:
                about |= _offered(sample, asking, offer, pruned_answers[index].text)
            kept = _against(sample, plain[index], pruned_answers[index], trace.last, index, looks[index], questions)

            def follow(index: int = index, stages: Sequence[PruneStage] = stages) -> Tensor:
                one = ready[index]
                with pruned(
                    loaded.model, stages, positions=asking.positions, site=site, pictures=(one.pictures,),
                    ids=(asked[index].id,),
                ):  # fmt: skip
                    return answer_log_probabilities(loaded.model, one.inputs, plain[index].ids)

            kept |= nearness(plain[index], pruned_answers[index], follow)
            kept |= oracle_agreement(looks[index], trace.last, index)
            cost_now = _cost(site, trace.last, index)
            named = {"method": point.method, "seed": point.seed, "keep": point.retention}
            records.append(about | kept | cost_now | named)
        step(2 + number, 1 + len(points))
    return records


def _prepared(loaded: Loaded, sample: QuestionSample, prompt: str) -> PreparedPrompt:
    """A sample as the model's input. Raises ``InputError`` for a picture that is damaged or that it does not take."""
    return prepare_file(loaded, sample.read(), prompt.replace(QUESTION, sample.question), sample.name)


def _whole(
    loaded: Loaded, site: VisionLanguageSite, questions: PreparedBatch, max_new_tokens: int
) -> tuple[list[TextAttention], Sequence[Answer], list[dict[str, Any]]]:
    """Where the text of each question looks, what the model says with all its tokens, and what that costs."""
    watch = TextWatch(site)
    with pruned(loaded.model, watch.stages, site=site, pictures=questions.pictures) as trace:
        said = answers(loaded, questions, max_new_tokens=max_new_tokens)
    cost = [_cost(site, trace.last, index) for index in range(len(said))]
    return watch.seen(), said, cost


def _cost(site: VisionLanguageSite, prefill: Prefill, index: int) -> dict[str, Any]:
    """What one prompt cost, as counted while it ran."""
    cost = cost_of(site, prefill, index)
    return {
        "multiply_adds": cost.multiply_adds_after, "flops_ratio": cost.flops_ratio, "kv_bytes": cost.kv_bytes_after
    }  # fmt: skip


def _offered(sample: QuestionSample, asking: Asking, offer: OfferedAnswer, large: str) -> dict[str, Any]:
    """Of early exit: how safe the guide's answer looks, whether the large model is asked, and what both are worth."""
    named = {"guide": offer.text, "large": large}
    scores = {
        f"score_{name}": judged(text, sample.answers, asking.rule) if sample.answers else None
        for name, text in named.items()
    }
    return {"decision": offer.decision, "large_calls": not offer.taken, "answer_guide": offer.text, **scores}


def _about(sample: QuestionSample, asking: Asking, said: str, geometry: Geometry) -> dict[str, Any]:
    """What a sample's record says of an answer, whatever was kept."""
    score = judged(said, sample.answers, asking.rule) if sample.answers else None
    place = None
    if sample.boxes is not None and len(sample.boxes):
        place = float(np.mean(sample.boxes[:, 1::2])) / geometry.size[0]  # 0 at the top edge, 1 at the lower one
    return {"sample": sample.id, "task": sample.task, "answer": said, "score": score, "place": place}


def _itself(sample: QuestionSample, geometry: Geometry) -> dict[str, Any]:
    """The whole model against itself."""
    every = torch.arange(geometry.count)
    seen = sample.boxes is not None and len(evidence(geometry, sample.boxes)) > 0
    return {
        "method": FULL, "seed": 0, "keep": 1.0, "counted": 1.0, "kl": 0.0, "top1": True, "same_answer": True,
        "attention_mass": 1.0, "top5_overlap": 1.0, "log_p_change": 0.0, "perplexity_ratio": 1.0,
        "last_token_cosine": 1.0, "evidence_recall": 1.0 if seen else None,
        "padding_share": padding_share(every, padding(geometry)),
    }  # fmt: skip


def _against(
    sample: QuestionSample, plain: Answer, said: Answer, prefill: Prefill, index: int, looks: TextAttention,
    questions: PreparedBatch,
) -> dict[str, Any]:  # fmt: skip
    """What was kept of one question, and how far the answer is from the whole model's."""
    geometry = questions.pictures[index][0]
    kept = prefill.kept(index)
    kept = torch.arange(prefill.before[index]) if kept is None else kept.cpu()
    found = evidence(geometry, sample.boxes) if sample.boxes is not None else None
    return {
        "counted": prefill.retention(index),
        "kl": divergence(plain.logits, said.logits),
        "top1": same_top(plain.logits, said.logits),
        "same_answer": same_answer(plain.text, said.text),
        "attention_mass": looks.mass_kept(prefill, index),
        "evidence_recall": recall(kept, found) if found is not None else None,
        "padding_share": padding_share(kept, padding(geometry)),
    }
