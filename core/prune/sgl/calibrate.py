"""`attn prune calibrate sgl`: the threshold of early exit (methods/sgl.md, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Section
from ..api import keep_of
from ..curves.answers import Rule, judged
from ..engine.sites import site_of
from ..learning import LearningRun
from .agreement import LayerAgreement
from .early import EarlyExit
from .fitted import FittedExit, write_exit
from .guide import about_the_guide, run_guide
from .options import ExitOptions
from .pruner import SGL
from .tradeoff import exit_tradeoff


def calibrate_sgl(
    options: ExitOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Find the threshold at which the large model is asked for a share of the questions, and write it.

    Raises
    ------
    UsageError
        If a model cannot be loaded or both do not split pictures alike.
    InputError
        If the data cannot be read.
    """
    run = LearningRun("sgl", options, options.common, watcher, arguments)
    tokens = options.max_new_tokens
    with about_the_guide():
        guide = run.load(options.small)
    both = EarlyExit(
        guide, run.loaded, keep_of(options.keep),
        method=SGL(f_layer=options.f_layer, rows=options.rows), max_new_tokens=tokens,
    )  # fmt: skip
    known = run.samples.answered == len(run.samples)
    rule: Rule = "vqa" if run.samples.by_people else "exact"
    if not known:
        run.warnings.append("not every sample has an answer: accuracy is agreement with the large model's answers")
    decisions, guide_scores, large_scores = [], [], []
    agreement = LayerAgreement()
    for sample, (small, large) in run.questions((guide, run.loaded)):
        guess = both.ask_guide(small)
        text = both.ask_large(large, guess.importance)
        accepted = sample.answers if known else (text,)
        decisions.append(guess.decision)
        guide_scores.append(judged(guess.text, accepted, rule))
        large_scores.append(judged(text, accepted, rule))
        if options.agreement:
            whole = run_guide(site_of(run.loaded), large.inputs, max_new_tokens=tokens, rows=options.rows)
            agreement.add(guess.run, whole)
    tradeoff = exit_tradeoff(decisions, guide_scores, large_scores)
    threshold, reached = tradeoff.threshold_for(options.share)
    if abs(reached - options.share) > 0.5 / len(decisions):
        run.warnings.append(
            f"questions with equal decisions: the large model is asked for {reached:.1%} of all, the nearest to "
            f"{options.share:.1%}"
        )
    fitted = FittedExit(
        threshold, options.share, reached, run.common.choice.model, options.small,
        (run.loaded.fingerprint, guide.fingerprint), tokens, len(decisions), run.common.data, run.split,
        tuple(run.marks),
    )  # fmt: skip
    write_exit(run.common.output, fitted)
    place = tradeoff.thresholds.tolist().index(threshold)
    metrics = {
        "threshold": threshold, "large_calls": reached, "accuracy": float(tradeoff.accuracy[place]),
        "accuracy_guide": float(tradeoff.accuracy[0]), "accuracy_large": float(tradeoff.accuracy[-1]),
        "samples": len(decisions),
    }  # fmt: skip
    sections: tuple[Section, ...] = (tradeoff.curve(), *([agreement.table()] if options.agreement else []))
    return run.report(metrics, sections=sections)
