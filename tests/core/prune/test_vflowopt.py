"""VFlowOpt in models of transformers, its budget, search and strategy files (methods/vflowopt.md, section 11)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_vlms import NAMES, coloured, loaded_vlm

from attn.core.errors import InputError, UsageError
from attn.core.models.hooks import observed
from attn.core.prune.data.marks import mark_of
from attn.core.prune.data.samples import QuestionSample
from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.moment import PruneStage, TokenChoice
from attn.core.prune.engine.sites import site_of
from attn.core.prune.methods.base import Keep
from attn.core.prune.vflowopt.bayes import Search, fitted
from attn.core.prune.vflowopt.budget import even_stages, mean_retention, second_count, solved, third_count
from attn.core.prune.vflowopt.method import VFlowOpt
from attn.core.prune.vflowopt.places import token_places
from attn.core.prune.vflowopt.recycle import recycle
from attn.core.prune.vflowopt.strategy import FlowStrategy, read_strategy
from attn.core.prune.vlm.ask import prepare

GREY = dict(pixel_mean=(0.5,) * 3, pixel_std=(0.25,) * 3)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_class_keeps_the_budget(name: str) -> None:
    loaded = loaded_vlm(name)
    site = site_of(loaded.model)
    inputs = prepare(loaded, [coloured(40, 60)], "what is it").inputs
    for method in (VFlowOpt(), VFlowOpt(alpha=-0.3, side=3, first=0.5, second=0.8, **GREY)):  # type: ignore[arg-type]
        with pruned(loaded.model, method.stages(site, Keep(share=0.45)), site=site) as trace:
            loaded.model(**inputs)
        before = trace.last.before[0]
        assert trace.last.retention() * before == pytest.approx(0.45 * before, abs=1)
        assert not trace.last.notes
    grid = ["vflowopt: positions are rows and columns in this model; behind stage 1 they are kept"]
    anew = VFlowOpt(stage1_positions="compact")
    with pruned(loaded.model, anew.stages(site, Keep(share=0.45)), site=site) as trace:
        loaded.model(**inputs)
    assert trace.last.notes == (grid if site.has_grid_positions else [])


@torch.no_grad()
def test_all_kept_is_the_plain_model() -> None:
    loaded = loaded_vlm("llava-next")
    site = site_of(loaded.model)
    inputs = prepare(loaded, [coloured(40, 60)], "what is it").inputs
    plain = loaded.model(**inputs).logits
    with pruned(loaded.model, VFlowOpt().stages(site, Keep(share=1.0)), site=site) as trace:
        assert torch.equal(loaded.model(**inputs).logits, plain)
    assert trace.last.retention() == 1


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "smolvlm"])
@torch.no_grad()
def test_streamed_maps_are_those_of_the_whole_matrix(name: str) -> None:
    """Class token and padding are left out of rows and columns, and the rows renormalised (section 12)."""
    loaded = loaded_vlm(name)
    site = site_of(loaded.model)
    layer = VFlowOpt().vision_layer_in(site)
    found = []

    def look(moment):
        tower = moment.prompts.tower
        rows = torch.zeros(tower.patches[0].shape, dtype=torch.bool)
        rows[::3, 0] = True
        found.append((tower, tower.among_patches(layer), tower.among_patches(layer, rows), rows))
        return [TokenChoice(numbers) for numbers in moment.numbers]

    matrices: list[torch.Tensor] = []

    def keep(number, prob):
        if number == layer and len(matrices) < len(prob):
            matrices.extend(prob)

    with (
        observed(site.tower, keep),
        pruned(loaded.model, [PruneStage(0, look, tower=(layer,))], site=site),
    ):
        loaded.model(**prepare(loaded, [coloured(40, 60)], "what is it").inputs)
    tower, received, important, rows = found[0]
    n = matrices[0].shape[-1]
    for view in range(len(tower.grids)):
        of = tower.views == view
        index = tower.patches[0][of] - view * n  # [cells, m] in this view
        dense = matrices[view][:, index.flatten()][:, :, index.flatten()]
        dense = (dense / dense.sum(-1, keepdim=True)).mean(0)
        torch.testing.assert_close(received[of], dense.mean(0).view_as(index), atol=1e-6, rtol=0)
        wanted = dense[rows[of].flatten()].mean(0).view_as(index)
        torch.testing.assert_close(important[of], wanted, atol=1e-6, rtol=0)


@torch.no_grad()
def test_no_important_patch_is_told() -> None:
    loaded = loaded_vlm("llava padded")
    site = site_of(loaded.model)
    with pruned(loaded.model, VFlowOpt(t=40).stages(site, Keep(share=0.5)), site=site) as trace:
        loaded.model(**prepare(loaded, [coloured(40, 60)], "what is it").inputs)
    assert "no patch receives more than 40 times" in trace.last.notes[0]


@torch.no_grad()
def test_several_pictures_are_not_recycled() -> None:
    loaded = loaded_vlm("llava padded")
    site = site_of(loaded.model)
    prepared = prepare(loaded, [coloured(40, 60), coloured(60, 40)], "what is it")
    stages = VFlowOpt(first=0.5, second=1.0).stages(site, Keep(share=0.5))
    with pruned(loaded.model, stages, site=site, pictures=(prepared.pictures,)) as trace:
        loaded.model(**prepared.inputs)
    choice = trace.last.choices[0][0]
    assert choice.features is None
    assert (choice.keep < 36).sum() == (choice.keep >= 36).sum() == 18  # of each picture half


def test_merged_weights_are_never_negative() -> None:
    features = torch.eye(4)
    found = recycle(torch.tensor([-3.0, -1.0, 2.0, 5.0]), features, torch.zeros(4, dtype=torch.int64), 0.5, 2.0)
    assert found.keep.tolist() == [2, 3]
    assert (found.features >= 0).all()
    torch.testing.assert_close(found.features[0], features[2])  # the others weigh nothing
    nothing = recycle(torch.zeros(4), features, torch.zeros(4, dtype=torch.int64), 1.0, 2.0)
    assert nothing.keep.tolist() == [0, 1, 2, 3]


def test_tiles_are_laid_together() -> None:
    """Two tiles of 2 x 2 side by side behind an overview, a token at the end of each row."""
    views = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    tiles = [[4, 5, 8, 9, -1], [6, 7, 10, 11, -1]]
    cells = torch.tensor([0, 1, 2, 3, *tiles[0], *tiles[1]])
    places = token_places(cells, views, [(2, 2)] * 3)
    assert places.sheets.tolist() == [0] * 4 + [1] * 10
    assert places.rows.tolist() == [0, 0, 1, 1] + [0] * 5 + [1] * 5
    assert places.columns.tolist() == [0, 1, 0, 1] + [0, 1, 2, 3, 4] * 2
    twice = token_places(torch.cat([cells, torch.where(cells < 0, -1, cells + 12)]), torch.cat([views, views + 3]),
                         [(2, 2)] * 6)  # fmt: skip
    assert twice.sheets.tolist() == [0] * 4 + [1] * 10 + [2] * 4 + [3] * 10
    assert places.side == 5


@pytest.mark.parametrize(
    ("stages", "retention"),
    [((0.7233, 0.7487, 0.487), 0.5008), ((0.2651, 0.9833, 0.8773), 0.2507), ((0.1166, 1.0, 0.6011), 0.1)],
)
def test_released_strategies(stages: tuple[float, float, float], retention: float) -> None:
    assert mean_retention(stages, (9, 18), 28) == pytest.approx(retention, abs=1e-4)
    assert VFlowOpt().layers_in(SimpleSite(28)) == (9, 18)  # type: ignore[arg-type]
    assert VFlowOpt().layers_in(SimpleSite(32)) == (10, 20)  # type: ignore[arg-type]


@dataclasses.dataclass
class SimpleSite:
    depth: int


def test_budgets() -> None:
    assert solved(0.25, 0.3, 0.7, (9, 18), 28) == 1.0  # 1.15 before it is cut
    assert mean_retention((0.3, 0.8, solved(0.25, 0.3, 0.8, (9, 18), 28)), (9, 18), 28) == pytest.approx(0.25)
    with pytest.raises(UsageError, match=r"leave more than 0\.25"):
        solved(0.25, 0.5, 1.0, (9, 18), 28)
    with pytest.raises(UsageError, match="two of layers 1 to 3"):
        mean_retention((1, 1, 1), (1, 4), 4)
    share = even_stages(0.25, (9, 18), 28)
    assert mean_retention((share, share, share), (9, 18), 28) == pytest.approx(0.25, abs=1e-9)
    for before in range(20, 60):  # whatever stage 1 leaves, the others make up for it where that can be
        total, layers, depth = 40 * 28.0, (9, 18), 28
        here = second_count(total, before, 0.9, layers, depth)
        count = third_count(total, before, here, layers, depth)
        spent = (before * 9 + here * 9 + count * 10) / depth
        assert spent == pytest.approx(40 if before >= 40 else before, abs=0.6)
        assert count <= here <= before


def test_the_search_improves_on_its_first_points_and_is_the_same_again() -> None:
    best, box = np.array([0.3, 7.0]), [(0.25, 0.375), (3, 24)]
    side = np.array([high - low for low, high in box])

    def value(point: np.ndarray) -> float:
        return 1 - float((((point - best) / side) ** 2).sum())

    def run(steps: int) -> Search:
        search = Search(box, seed=42, initial=6, allowed=lambda point: point[0] + point[1] / 1000 < 0.38)
        for _ in range(steps):
            point = search.ask()
            search.tell(point, value(point))
        return search

    search = run(12)
    assert max(search.values) > max(search.values[:6]) + 0.03
    assert max(search.values) > 0.97
    assert np.array_equal(np.stack(run(8).points), np.stack(search.points[:8]))
    assert all(point[0] + point[1] / 1000 < 0.38 for point in search.points)
    search.tell(best, float("nan"))
    assert search.values[-1] == 0
    with pytest.raises(UsageError, match="hardly has any"):
        Search(box, seed=0, initial=4, allowed=lambda point: False)


def test_the_process_goes_through_what_it_saw() -> None:
    points = np.linspace(0, 1, 7)[:, None]
    process = fitted(points, np.sin(5 * points[:, 0]))
    mean, deviation = process.predict(np.array([[0.5], [0.25]]))
    np.testing.assert_allclose(mean, np.sin([2.5, 1.25]), atol=0.02)
    assert (deviation < 0.1).all()


STRATEGY = FlowStrategy(0.4, 1.5, 0.0, 3.0, 0.5, 0.8, None, (1, 2), 1, model="abc")


def test_a_strategy_is_read_back_and_binds_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    STRATEGY.write(path)
    assert read_strategy(path) == STRATEGY
    method = VFlowOpt(calibration=path)
    assert method.resolved(Keep(share=0.4)) == VFlowOpt.of(STRATEGY)
    for keep in (Keep(share=0.25), Keep(count=10)):
        with pytest.raises(UsageError, match=r"mean share of 0\.4"):
            method.resolved(keep)
    assert STRATEGY.fits("abc")
    assert STRATEGY.fits("")
    assert method.warnings(site_of(loaded_vlm("llava").model)) == ()  # of a model alone the weights are not known
    site, inputs = site_of(loaded_vlm("llava")), prepare(loaded_vlm("llava"), [coloured(40, 60)], "what is it").inputs
    with torch.no_grad(), pruned(site.model, method.stages(site, Keep(share=0.4)), site=site) as trace:
        site.model(**inputs)
    assert "other weights" in trace.last.notes[0]


@pytest.mark.parametrize("content", ["{}", "[]", '{"method": "vflowopt"}', '{"method": "vflowopt", "keep": "a"}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(InputError, match="strategy"):
        read_strategy(tmp_path / "s.json")


def test_what_it_was_found_on_is_not_evaluated_on() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    one, other = (QuestionSample(f"row {n}", picture, "what is it") for n, picture in enumerate(pictures))
    strategy = dataclasses.replace(STRATEGY, split=(mark_of(one),))
    strategy.check_held_out([other, dataclasses.replace(one, question="where is it")])
    with pytest.raises(UsageError, match="row 7"):
        strategy.check_held_out([other, dataclasses.replace(one, id="row 7")])
    broken = dataclasses.replace(one, picture=Path("nowhere.png"))
    strategy.check_held_out([broken])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"first": 0.5}, "go together"),
        ({"third": 0.5}, "go together"),
        ({"first": 1.5, "second": 1.0}, "no share"),
        ({"side": 0.5}, "1 token wide"),
        ({"alpha": 0.1}, "pixel_mean"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        VFlowOpt(**settings)  # type: ignore[arg-type]


def test_a_model_with_too_few_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="layers 1 and 1"):
        VFlowOpt().layers_in(SimpleSite(2))  # type: ignore[arg-type]
