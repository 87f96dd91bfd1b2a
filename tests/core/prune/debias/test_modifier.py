"""``+debias`` behind a method's name: positions, padding, pictures, what it tells (methods/attention-debias.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_vlms import coloured, loaded_vlm
from torch import Tensor

from attn.core.errors import InputError, UsageError
from attn.core.prune import METHODS
from attn.core.prune.api import prune
from attn.core.prune.debias.fitted import FittedTrend, read_trend, shape_of, write_trend
from attn.core.prune.debias.modifier import GENERIC, Debias, debias
from attn.core.prune.debias.places import pictures_of, raster
from attn.core.prune.debias.trend import Trend, bias_strength, fit_trend
from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.moment import Moment, PruneStage, TokenChoice
from attn.core.prune.engine.sites import VisionLanguageSite, site_of
from attn.core.prune.engine.trace import Prefill
from attn.core.prune.methods.base import Keep, Pruner, top
from attn.core.prune.named import pruner_of, split
from attn.core.prune.vlm.ask import batch, prepare

WIDE = coloured(24, 48)
"""Padded to a square: of 6 x 6 tokens the first and last one and a half rows show padding."""
QUESTION = "what colour is it"


@torch.no_grad()
def run(
    model: str, method: str, keep: float | int = 0.5, pictures: Sequence[Any] = (WIDE,), **settings: Any
) -> Prefill:
    """One prompt's prefill under pruning, its geometry given."""
    loaded = loaded_vlm(model)
    prepared = prepare(loaded, pictures, QUESTION)
    with prune(loaded, method, keep, pictures=(prepared.pictures,), **settings) as trace:
        loaded.model(**prepared.inputs)
    return trace.last


def kept(prefill: Prefill) -> list[int]:
    numbers = prefill.kept()
    assert numbers is not None
    return numbers.tolist()


@dataclass(frozen=True)
class Stages(Pruner):
    """The largest of fixed scores, at several layers; notes the scores."""

    layers: tuple[int, ...] = (1,)
    scores: tuple[Tensor, ...] = ()
    noted: tuple[list[Any], ...] = ([],)

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        def choose(moment: Moment) -> list[TokenChoice]:
            raw = self.scores or tuple(torch.ones(count) for count in moment.prompts.counts)
            scores = [score[numbers] for score, numbers in zip(raw, moment.numbers, strict=True)]
            self.noted[0].append((moment, self.modified(moment, scores)))
            return [
                top(score, numbers, keep.of(len(numbers)))
                for score, numbers in zip(self.noted[0][-1][1], moment.numbers, strict=True)
            ]

        return [PruneStage(layer, choose) for layer in self.layers]


@torch.no_grad()
def scored(model: str, modifier: Debias, pictures: Sequence[Any] = (WIDE,), **more: Any) -> list[tuple[Moment, Tensor]]:
    """Moment and scores of the only prompt, after ``modifier``, at every stage; scores before are ones."""
    loaded = loaded_vlm(model)
    video = more.pop("video", False)
    prepared = prepare(loaded, pictures, QUESTION, video=video)
    noted: list[Any] = []
    method = Stages(modifiers=(modifier,), noted=(noted,), **more)
    with pruned(loaded.model, method.stages(site_of(loaded), Keep(share=0.5)), pictures=(prepared.pictures,)):
        loaded.model(**prepared.inputs)
    return [(moment, scores[0]) for moment, scores in noted]


def test_nothing_to_take_out_is_the_identity() -> None:
    score = torch.rand(20)
    everything = torch.ones(20, dtype=torch.bool)
    assert torch.equal(debias(score, torch.arange(20), 20, 0.0, everything), score)
    one, two = (debias(score * scale, torch.arange(20), 20, 1.2, everything) for scale in (1, 7))
    assert torch.equal(top(one, torch.arange(20), 5).keep, top(two, torch.arange(20), 5).keep)


def test_padding_is_never_kept_and_the_budget_lowered() -> None:
    padded = {*range(6), *range(30, 36)}  # whole rows; half of the next ones is no more than the threshold
    prefill = run("llava padded", "fastv+debias:pas", 0.9)
    assert kept(prefill) == [n for n in range(36) if n not in padded]
    assert any("12 of 36 visual tokens show padding" in note for note in prefill.notes)
    strict = run("llava padded", "fastv+debias:pas", 0.9, pad_threshold=0.01)
    assert kept(strict) == list(range(12, 24))


def test_what_is_left_of_the_budget_can_go_to_padding() -> None:
    filled = kept(run("llava padded", "fastv+debias:pas", 30, fill="uniform"))
    assert len(filled) == 30
    padding = [n for n in filled if n < 6 or n >= 30]
    assert {*range(6, 30)} <= {*filled}
    assert len(padding) == 6
    assert {n < 6 for n in padding} == {True, False}  # above and below


def test_trend_goes_by_the_original_index_at_every_stage_that_is_wanted() -> None:
    for every in (False, True):
        modifier = Debias(padding=False, sigma=1.0, every_stage=every)
        (_, first), (moment, second) = scored("llava padded", modifier, layers=(1, 3))
        torch.testing.assert_close(first, torch.exp(-torch.arange(36) / 36))
        places = moment.numbers[0]
        torch.testing.assert_close(second, torch.exp(-places / 36) if every else torch.ones(18))


def test_each_picture_has_its_own_origin() -> None:
    ((_, scores),) = scored("qwen2-vl", Debias(padding=False, sigma=1.0), [coloured(32, 32), coloured(32, 48)])
    lengths = [16, 24]
    assert len(scores) == sum(lengths)
    torch.testing.assert_close(scores, torch.cat([torch.exp(-torch.arange(n) / n) for n in lengths]))


@pytest.mark.parametrize("model", ["smolvlm", "internvl", "llava-next"])
def test_tiles_and_line_ends_are_one_sequence(model: str) -> None:
    ((moment, scores),) = scored(model, Debias(padding=False, sigma=1.0), [coloured(64, 96)])
    n = len(scores)
    torch.testing.assert_close(scores, torch.exp(-torch.arange(n) / n))
    moment.prompts.pictures = None  # by the gaps between tokens alone
    assert pictures_of(moment.prompts, 0) == [range(n)]


def test_video_is_one_sequence() -> None:
    frames = [coloured(32, 48, seed) for seed in range(8)]
    ((_, scores),) = scored("qwen2-vl", Debias(sigma=1.0), frames, video=True)
    assert len(scores) == 4 * 24  # pairs of frames share their tokens
    torch.testing.assert_close(scores, torch.exp(-torch.arange(96) / 96))


def test_prompts_of_a_batch_have_their_own_padding() -> None:
    loaded = loaded_vlm("llava padded")
    square = coloured(48, 48)
    questions = batch(loaded, [prepare(loaded, [WIDE], QUESTION), prepare(loaded, [square], "what")])
    with torch.no_grad(), prune(loaded, "fastv+debias", 30, pictures=questions.pictures) as trace:
        loaded.model(**questions.inputs)
    assert [len(choice.keep) for choice in trace.last.choices[min(trace.last.choices)]] == [24, 30]


def test_what_the_user_must_know() -> None:
    notes = run("qwen2-vl", "fastv+debias").notes
    assert any("no padding" in note for note in notes)
    assert any(f"generic strength {GENERIC}" in note for note in notes)
    assert not any("generic" in note for note in run("qwen2-vl", "fastv+debias", sigma=0.5).notes)
    loaded = loaded_vlm("llava padded")
    inputs = prepare(loaded, [WIDE], QUESTION).inputs
    with torch.no_grad(), prune(loaded, "fastv+debias") as trace:
        loaded.model(**inputs)
    assert any("padding cannot be found" in note for note in trace.notes)
    with pytest.raises(UsageError, match="debias:pas"), torch.no_grad(), prune(loaded, "fastv+debias:pas"):
        loaded.model(**inputs)


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("random+debias", {}, "pyramiddrop, sgl.*; random has none that it changes"),
        ("debias", {}, r"fastv\+debias"),
        ("fastv+blur", {}, "blur cannot stand behind"),
        ("fastv+debias+debias", {}, "twice"),
        ("fastv+debias:pod", {}, "pd .positions. and pas"),
        ("fastv+debias", {"sugma": 1}, "no setting 'sugma'"),
        ("fastv+debias", {"sigma": 1.0, "calibration": "x.json"}, "one of them"),
        ("fastv+debias:pas", {"sigma": 1.0}, "takes no trend out"),
        ("fastv+debias", {"pad_threshold": 1.0}, "pad_threshold"),
        ("fastv+debias", {"fill": "random"}, "fill"),
    ],
)
def test_names_and_settings_that_cannot_be(name: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        pruner_of(name, settings)


def test_parts_of_a_name() -> None:
    assert split("fastv+debias:pd,pas") == ("fastv", (("debias", ("pd", "pas")),))
    (modifier,) = pruner_of("fastv+debias:pd", {"layer": 1, "sigma": 0.3}).modifiers
    assert modifier == Debias(padding=False, sigma=0.3, method="fastv")


def test_every_attentive_method_can_be_debiased() -> None:
    """Those that say so send their scores through ``modified``, the others do not."""
    loaded = loaded_vlm("llava padded")
    prepared = prepare(loaded, [WIDE], QUESTION)
    site = site_of(loaded)
    for name, row in METHODS.items():
        cls = row.resolve()
        if not issubclass(cls, Pruner) or any(field in cls.__dataclass_fields__ for field in ("guide", "strategy")):
            continue
        seen: list[int] = []

        def modifier(moment: Moment, scores: list[Tensor], seen: list[int] = seen) -> list[Tensor]:
            seen.append(len(scores[0]))
            assert [len(score) for score in scores] == [len(numbers) for numbers in moment.numbers]
            return scores

        stages = replace(cls(), modifiers=(modifier,)).stages(site, Keep(share=0.5))
        with torch.no_grad(), pruned(site.model, stages, site=site, pictures=(prepared.pictures,)):
            site.model(**prepared.inputs)
        assert bool(seen) == cls.attentive, name


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "sparsevlm", "visionzip"])
def test_no_method_keeps_or_merges_padding(name: str, keep: float) -> None:
    prefill = run("llava padded", f"{name}+debias:pas", keep)
    for choices in prefill.choices.values():
        assert {n // 6 for n in choices[0].keep.tolist()} <= {1, 2, 3, 4}
    assert len(kept(prefill)) > 0


def fitted(**values: Any) -> FittedTrend:
    loaded = loaded_vlm("llava padded")
    known: dict[str, Any] = dict(
        trend=Trend(1e-3, 0.8), model="m", fingerprint=loaded.fingerprint, shape=shape_of(site_of(loaded)),
        method="fastv", layer=1, length=36, domain="linear", samples=5, data="d", split="all", marks=("ab",),
    )  # fmt: skip
    return FittedTrend(**known | values)


def test_calibration_round_trip_and_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "trend.json"
    for trend in (Trend(1e-3, 0.8, residual=0.1), Trend(1e-3, 0.8, cubic=(0.1, 0.2, 0.3))):
        write_trend(path, fitted(trend=trend))
        assert read_trend(path) == fitted(trend=trend)
    write_trend(path, fitted())
    same = run("llava padded", "fastv+debias:pd", calibration=path, layer=1)
    assert not any("fitted" in note or "generic" in note for note in same.notes)
    torch.testing.assert_close(kept(same), kept(run("llava padded", "fastv+debias:pd", sigma=0.8, layer=1)))
    other = fitted(shape="another model", length=100, layer=3)
    write_trend(path, other)
    notes = run("llava padded", "fastv+debias:pd", calibration=path, layer=1).notes
    for text in ("another model", "in front of layer 3", "100 visual tokens is stretched to 36"):
        assert any(text in note for note in notes), text
    write_trend(path, fitted(fingerprint="other"))
    assert any("other weights" in n for n in run("llava padded", "fastv+debias:pd", calibration=path, layer=1).notes)
    write_trend(path, fitted(method="oracle"))
    notes = run("llava padded", "fastv+debias:pd", calibration=path, layer=1).notes
    assert "debias: the trend was fitted to the scores of oracle, not of fastv." in notes


def test_a_cubic_is_divided_by() -> None:
    trend = Trend(1.0, 0.5, cubic=(0.5, 0.2, 0.1))
    ((_, scores),) = scored("llava padded", Debias(padding=False, fitted=fitted(trend=trend)))
    x = torch.arange(36) / 36
    torch.testing.assert_close(scores, 1 / (1 + 0.5 * x + 0.2 * x**2 + 0.1 * x**3))


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"kind": "attn prune debias", "trend": {"mu": 1}}'])
def test_files_that_are_no_calibration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trend.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"trend\.json"):
        read_trend(path)


def test_fits_that_cannot_be() -> None:
    assert bias_strength([1.0, 1.0, 1.0, 1.0]) == pytest.approx(0, abs=1e-6)
    for values in ([1.0], [0.0, 0.0, 0.0], [1.0, float("nan"), 1.0]):
        with pytest.raises(ValueError, match="finite values"):
            fit_trend(values)


def test_raster_of_several_pictures() -> None:
    index, length = raster([range(3), range(3, 5)], torch.tensor([0, 2, 4]))
    assert index.tolist() == [0, 2, 1]
    assert length.tolist() == [3, 3, 2]
