"""`attn probe saliency shapes…`: does low saliency predict a wrong answer, and what do the mitigations change?

The released scorer is constant, so the effect is measured, not assumed (methods/lvlms-saliency.md, section 6): AUROC of
the score against the label, wrong answers by quartile, and rate, length and time of every decoding.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import attn

from ...models.loaded import Loaded
from ...progress import Watcher
from ...prune.data.drawn import drawn_samples
from ...prune.data.samples import QuestionSample
from ...prune.measure.statistics import mcnemar, wilson
from ...prune.told import model_kind
from ...report.model import Item, Report, command_line_of, summarise
from ...report.sections import Facts, Section, Table
from ..frame import request_of, scenes_figure, settings_of
from ..panel import FigureData, Origin, write_figure
from .decode import Decoding, Floats, GroundedAnswer, decode
from .examine import decoding_of, mitigated_by
from .options import READ_BY, SaliencyOptions
from .question import about_picture

PARTS = 4


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer to a question whose answer is known.

    Parameters
    ----------
    wrong : bool
    claims : bool
        It is wrong and says that something is there which is not: "yes", or more than there are.
    score, probability : float
        Of its first token.
    tokens : int
    seconds : float
    """

    wrong: bool
    claims: bool
    score: float
    probability: float
    tokens: int
    seconds: float


def judge(answer: GroundedAnswer, sample: QuestionSample) -> JudgedAnswer:
    """Whether an answer is right, and what a wrong one claims."""
    said, truth = answer.text, sample.answers[0]
    wrong = said != truth
    more = said.isdecimal() and truth.isdecimal() and int(said) > int(truth)
    first = answer.tokens[0]
    claims = wrong and (more or (said, truth) == ("yes", "no"))
    return JudgedAnswer(wrong, claims, first.score, first.probability, len(answer.tokens), answer.seconds)


def auroc(scores: Floats, labels: Sequence[bool]) -> float:
    """How often a labelled answer has a lower score than another: 0.5 is chance; NaN where all labels are equal."""
    from scipy.stats import rankdata

    marked = np.asarray(labels, bool)
    positives, negatives = int(marked.sum()), int((~marked).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(-scores)
    return float((ranks[marked].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def quartile_rows(scores: Floats, wrong: Sequence[bool]) -> list[dict[str, Any]]:
    """Wrong answers in each quarter of the answers, lowest scores first; equal scores in the order of the questions."""
    rows = []
    for number, part in enumerate(np.array_split(np.argsort(scores, kind="stable"), PARTS), 1):
        share = wilson(int(np.asarray(wrong)[part].sum()), len(part))
        rows.append(
            {
                "quartile": number, "answers": len(part), "highest_score": float(scores[part].max(initial=-np.inf)),
                "wrong": share.value, "wrong_low": share.low, "wrong_high": share.high,
            }
        )  # fmt: skip
    return rows


def decodings(how: Decoding, options: SaliencyOptions) -> dict[str, Decoding]:
    """The most probable answer; top-K sampling as the baseline of sgrs; and each mitigation."""
    found = {"as it is": how}
    if "sgrs" in options.mitigate and not options.released:
        found["released sgrs (top-K sampling)"] = replace(mitigated_by(how, options), released=True, locore=None)
    for name in options.mitigate if len(options.mitigate) > 1 else ():
        found[name] = mitigated_by(how, replace(options, mitigate=(name,), **_unread(options, name)))
    if options.mitigate:
        found["+".join(options.mitigate)] = mitigated_by(how, options)
    return found


def _unread(options: SaliencyOptions, name: str) -> dict[str, Any]:
    """Defaults of what one mitigation alone does not read."""
    return {
        one: type(options).__dataclass_fields__[one].default
        for other, names in READ_BY.items()
        if other != name
        for one in names
    }


def look_at_scenes(
    options: SaliencyOptions, loaded: Loaded, watcher: Watcher, arguments: Mapping[str, Any], start: float
) -> Report:
    """Every question of the source, by every decoding."""
    path, source = scenes_figure(options.inputs.output, "saliency"), options.inputs.scenes
    samples = drawn_samples(source, options.seed)
    how = decodings(decoding_of(loaded, options), options)
    judged: dict[str, list[JudgedAnswer]] = {name: [] for name in how}
    for number, sample in enumerate(samples):
        asked = about_picture(loaded, sample.read(), sample.question, sample.id)
        for name, one in how.items():
            answer = decode(loaded, asked, replace(one, seed=options.seed + number))
            judged[name].append(judge(answer, sample))
        watcher.step("drawn scenes", number + 1, len(samples))
    plain = judged["as it is"]
    scores, wrong = np.array([one.score for one in plain]), [one.wrong for one in plain]
    quartiles = quartile_rows(scores, wrong)
    rows = [decoding_row(name, answers, plain) for name, answers in judged.items()]
    predicted = prediction_rows(samples, plain)
    metrics = {
        "wrong": float(np.mean(wrong)), "auroc": auroc(scores, wrong),
        "auroc_probability": auroc(np.array([one.probability for one in plain]), wrong),
    }  # fmt: skip
    facts = {"model": options.model, "model_kind": model_kind(loaded, options.model), "wrong": metrics["wrong"]}
    sections: tuple[Section, ...] = (
        Table("prediction", predicted, title="Does a low score predict a wrong answer? (AUROC; 0.5 is chance)"),
        Table("quartiles", quartiles, title="Wrong answers by quartile of the score"),
        Table("decodings", rows, title="Wrong answers, length and time of each decoding"),
        Facts("reading", {"note": "auroc_probability is that of the token's own probability, which costs nothing"}),
    )
    arrays = {
        "wrong": np.array([[row[f"wrong{end}"] for row in quartiles] for end in ("", "_low", "_high")]),
        "score": scores, "label": np.array(wrong),
    }  # fmt: skip
    request = request_of(loaded.fingerprint, settings_of(options))
    origin = Origin(command_line_of(arguments), options.model, loaded.fingerprint, seed=options.seed, request=request)
    data = FigureData("saliency-quartiles", f"{source}, {options.model}", arrays, facts, origin)
    files = write_figure(path, data, metrics=metrics, sections=sections)
    seconds = time.perf_counter() - start
    item = Item(source, str(path), "ok", seconds, files=files, metrics=metrics, details=facts, sections=sections)
    return Report("probe", attn.__version__, arguments, str(loaded.model.device), seconds, (item,), summarise([item]))


def prediction_rows(samples: Sequence[QuestionSample], answers: Sequence[JudgedAnswer]) -> list[dict[str, Any]]:
    """AUROC of the score, and of the probability, for each task and all of them."""
    tasks = list(dict.fromkeys(sample.task for sample in samples))
    rows = []
    for task in [*tasks, *(["all"] if len(tasks) > 1 else [])]:
        own = [a for a, sample in zip(answers, samples, strict=True) if task in (sample.task, "all")]
        scores, probabilities = np.array([a.score for a in own]), np.array([a.probability for a in own])
        rows.append(
            {
                "task": task, "questions": len(own), "wrong": float(np.mean([a.wrong for a in own])),
                "claims": float(np.mean([a.claims for a in own])), "auroc": auroc(scores, [a.wrong for a in own]),
                "auroc_claims": auroc(scores, [a.claims for a in own]),
                "auroc_probability": auroc(probabilities, [a.wrong for a in own]),
            }
        )  # fmt: skip
    return rows


def decoding_row(name: str, answers: Sequence[JudgedAnswer], plain: Sequence[JudgedAnswer]) -> dict[str, Any]:
    """What one decoding came to, beside the most probable answers."""
    share = wilson(sum(one.wrong for one in answers), len(answers))
    test = mcnemar([one.wrong for one in answers], [one.wrong for one in plain])
    return {
        "decoding": name, "wrong": share.value, "wrong_low": share.low, "wrong_high": share.high,
        "claims": float(np.mean([one.claims for one in answers])), "p_value": test.p_value,
        "tokens": float(np.mean([one.tokens for one in answers])),
        "seconds_per_answer": float(np.mean([one.seconds for one in answers])),
    }  # fmt: skip
