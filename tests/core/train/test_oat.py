"""The recipe of OAT: its shelves, the rule of its searcher, its baselines, and runs that go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attn.core.bundles import Compute
from attn.core.errors import InputError, UsageError
from attn.core.fit import loop as trainer
from attn.core.options import OptionError
from attn.core.probe.scanpath.model import SearchModel, SearchShape, drawn_paths, path_logits, read_model
from attn.core.probe.scanpath.shelves import HELD_OUT, MOTIFS, Cover, draw_cover, draw_shelf
from attn.core.train.oat import baselines, data, searcher
from attn.core.train.oat.options import OATOptions
from attn.core.train.oat.recipe import OATRecipe, cross_entropy, forced
from attn.core.train.oat.recorded import divided, read_recorded
from attn.core.train.oat.run import CEILING, OWN, train_oat

SHAPE = SearchShape(16, 2, 1, 16, head_width=8)


def options(folder: Path, **changes: Any) -> OATOptions:
    small = OATOptions(
        folder, scenes=10, searchers=2, judged=4, samples=3, width=16, heads=2, layers=1, feed_forward=16, steps=4,
        warmup=1, batch=4, evaluate_every=2, compute=Compute(device="cpu", threads=1),
    )  # fmt: skip
    return replace(small, **changes)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)
    monkeypatch.setattr("attn.core.probe.scanpath.model.learned_table", lambda size, channels, seed: torch.rand(
        size + 4, channels // 3 + 1, generator=torch.Generator().manual_seed(seed)))  # fmt: skip


def inside(hue: float) -> bool:
    return HELD_OUT[0] < hue < HELD_OUT[1]


def test_hues_of_unseen_targets_are_in_no_other_shelf() -> None:
    rng = np.random.default_rng(0)
    known = [draw_shelf(rng, 3, 4) for _ in range(60)]
    assert not any(inside(cover.hue) for shelf in known for cover in shelf.covers)
    unseen = [draw_shelf(rng, 3, 4, held_out=True) for _ in range(30)]
    assert all(inside(shelf.covers[shelf.target].hue) for shelf in unseen)


def test_a_shelf_has_look_alikes_and_its_covers_where_its_boxes_say() -> None:
    shelf = draw_shelf(np.random.default_rng(3), 3, 5)
    likeness = shelf.likeness
    assert likeness.argmax() == shelf.target
    assert likeness[shelf.target] == pytest.approx(1)
    assert 0.3 < np.sort(likeness)[-2] < 1
    for cover, box in zip(shelf.covers, shelf.boxes.astype(int), strict=True):
        x0, y0, x1, y1 = box
        np.testing.assert_array_equal(shelf.picture[y0:y1, x0:x1], draw_cover(cover))
    assert len({draw_cover(Cover(0.1, 0.5, motif)).tobytes() for motif in range(len(MOTIFS))}) == len(MOTIFS)


def test_tests_share_no_shelf_with_training() -> None:
    training = data.searched_scenes(data.TRAINING, 5, 20, 1, (32, 24))
    for purpose in data.SETS.values():
        scenes = data.searched_scenes(purpose, 5, 8, 1, (32, 24))
        assert data.shared(scenes, training) == 0
        assert data.shared(scenes, scenes) == len(scenes)
    layouts = {(s.tensors.rows, s.tensors.cols) for s in data.searched_scenes(data.NEW_LAYOUT, 5, 8, 1, (32, 24))}
    assert layouts == set(data.NEW_LAYOUTS)
    assert not layouts & set(data.LAYOUTS)


def test_batches_hold_all_scenes_once_and_equally_many_objects() -> None:
    scenes = data.searched_scenes(data.TRAINING, 5, 13, 1, (32, 24))
    cut = data.batches(scenes, 2, np.random.default_rng(0))
    assert sorted(row for rows in cut for row in rows) == list(range(13))
    assert all(len({len(scenes[row].objects.boxes) for row in rows}) == 1 for rows in cut)


def test_the_searcher_does_as_its_rule_says() -> None:
    """The frequency of first and second fixations against the rule's own probabilities."""
    shelf = draw_shelf(np.random.default_rng(8), 2, 3)
    cells = np.stack(np.divmod(np.arange(6), 3), 1).astype(float)
    rng = np.random.default_rng(1)
    paths = [searcher.search(rng, cells, shelf.likeness, shelf.target) for _ in range(4000)]
    first = np.bincount([path[0] for path in paths], minlength=6) / len(paths)
    wanted = [searcher.chances(cells, shelf.likeness, shelf.target, [n])[0] for n in range(6)]
    np.testing.assert_allclose(first, wanted, atol=0.03)
    start = int(first.argmax())
    if start == shelf.target:
        start = int(np.argsort(first)[-2])
    then = [path[1] for path in paths if path[0] == start]
    wanted = [searcher.chances(cells, shelf.likeness, shelf.target, [start, n])[1] for n in range(6)]
    assert sum(wanted) == pytest.approx(1)
    np.testing.assert_allclose(np.bincount(then, minlength=6) / len(then), wanted, atol=0.06)
    assert np.mean([path[-1] == shelf.target for path in paths]) > 0.8


def test_a_fitted_strength_follows_the_cue_that_made_the_paths() -> None:
    scenes = data.searched_scenes(data.TRAINING, 5, 12, 1, (32, 24))
    rng = np.random.default_rng(0)
    near = [
        replace(s, paths=tuple(map(tuple, baselines.sample(rng, baselines.nearest, 8.0, s, 6, 24)))) for s in scenes
    ]
    assert 4 < baselines.strength_of(baselines.nearest, near) < 16
    assert baselines.strength_of(baselines.random, near) == 0
    assert baselines.strength_of(baselines.saliency, near) < 1


def test_baselines_end_at_the_target_and_repeat_nothing() -> None:
    scene = data.searched_scenes(data.TRAINING, 5, 1, 1, (32, 24))[0]
    for cue in baselines.BASELINES.values():
        for path in baselines.sample(np.random.default_rng(0), cue, 30.0, scene, 5, 24):
            assert path[-1] == scene.objects.target
            assert len(set(path)) == len(path)


@pytest.mark.parametrize("positions", ["learned", "original"])
def test_the_loss_is_that_of_each_path_alone(positions: Any) -> None:
    """Padding and the sharing of a scene by its paths change nothing."""
    scenes = [s for s in data.searched_scenes(data.TRAINING, 5, 11, 2, SHAPE.crop) if len(s.objects.boxes) == 10]
    net = replace(SHAPE, positions=positions).drawn(1).eval()
    paths = [[list(p) for p in s.paths] for s in scenes]
    together = cross_entropy(*path_logits(net, [s.tensors for s in scenes], paths))
    total, steps = 0.0, 0
    for scene, own in zip(scenes, paths, strict=True):
        for path in own:
            logits, tokens = path_logits(net, [scene.tensors], [[path]])
            total += float(cross_entropy(logits, tokens).detach()) * len(tokens)
            steps += len(tokens)
    assert float(together.detach()) == pytest.approx(total / steps, rel=1e-5)
    found = forced(net, scenes)
    assert found["nll"] == pytest.approx(total / steps, rel=1e-5)


def test_drawn_paths_follow_the_probabilities_under_teacher_forcing() -> None:
    scene = data.searched_scenes(data.TRAINING, 5, 1, 1, SHAPE.crop)[0]
    net = SHAPE.drawn(1).eval()
    paths = drawn_paths(SearchModel(net, SHAPE, {}), scene.tensors, 4000, torch.Generator().manual_seed(0))
    first = np.bincount([path[0] for path in paths], minlength=10) / len(paths)
    with torch.no_grad():
        logits, _ = path_logits(net, [scene.tensors], [[[0]]])
    np.testing.assert_allclose(first, logits[0, 0, :10].softmax(-1), atol=0.03)


def test_a_scene_of_one_kind_is_learnt() -> None:
    scenes = data.searched_scenes(data.TRAINING, 5, 5, 2, SHAPE.crop)[:1]
    net = replace(SHAPE, dropout=0.0).drawn(1)
    recipe = OATRecipe(net, SHAPE, scenes, scenes, 1, 0)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    before = forced(net.eval(), scenes)
    net.train()
    for step in range(60):
        optimiser.zero_grad()
        recipe.loss(step).backward()
        optimiser.step()
    after = forced(net.eval(), scenes)
    assert after["sim"] > 2 * before["sim"]


def test_a_run_and_its_file(tmp_path: Path) -> None:
    report = train_oat(options(tmp_path / "run"), arguments={})
    (item,) = report.items
    (table,) = [section for section in item.sections if section.name == "samplers"]
    rows = table.rows()
    assert {row["test"] for row in rows} == set(data.SETS)
    assert {row["sampler"] for row in rows} == {OWN, CEILING, *baselines.BASELINES}
    assert item.metrics["known_ss"] == next(r["ss"] for r in rows if r["sampler"] == OWN and r["test"] == "known")
    assert all(value == 0 for value in item.details["shared_with_training"].values())
    model = read_model(tmp_path / "run" / "model.safetensors")
    assert model.training["metrics"]["known_ss"] == item.metrics["known_ss"]
    assert "another searcher" in (tmp_path / "run" / "model.md").read_text()


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = train_oat(options(tmp_path / "whole"), arguments={})
    train_oat(options(tmp_path / "parts", steps=2), arguments={})
    parts = train_oat(options(tmp_path / "parts"), arguments={})
    assert parts.items[0].metrics["known_ss"] == whole.items[0].metrics["known_ss"]


def people(folder: Path, scenes: int = 10, **changes: Any) -> Path:
    """A file of recorded paths: drawn shelves as pictures, two searchers over each; changes of its third line."""
    records = []
    for number in range(scenes):
        rng = np.random.default_rng(number)
        shelf = draw_shelf(rng, 2, 3)
        scene = data.searched(rng, shelf, 2, SHAPE.crop)
        Image.fromarray(shelf.picture).save(folder / f"{number}.png")
        boxes = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in shelf.boxes.tolist()]
        shown = {"id": f"s{number}", "image": f"{number}.png", "boxes": boxes, "target": shelf.target}
        records += [{**shown, "fixations": list(path)} for path in scene.paths]
    records[2] |= changes
    (folder / "people.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "people.jsonl"


def test_recorded_paths_are_read_as_they_were_drawn(tmp_path: Path) -> None:
    found = read_recorded(people(tmp_path), SHAPE.crop)
    for number, scene in enumerate(found):
        rng = np.random.default_rng(number)
        wanted = data.searched(rng, draw_shelf(rng, 2, 3), 2, SHAPE.crop)
        assert scene.paths == wanted.paths
        assert torch.equal(scene.tensors.crops, wanted.tensors.crops)
        assert torch.equal(scene.tensors.places, wanted.tensors.places)
        np.testing.assert_array_equal(scene.colours, wanted.colours)
        assert scene.likeness is None
    parts = divided(found, 3)
    assert [len(part) for part in parts] == [8, 1, 1]
    assert len({scene.digest for part in parts for scene in part}) == 10
    assert parts[2][0].digest == divided(found, 3)[2][0].digest


def test_a_grid_takes_the_place_of_boxes(tmp_path: Path) -> None:
    path = people(tmp_path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        del record["boxes"]
        record |= {"rows": 2, "cols": 3}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    objects = read_recorded(path, SHAPE.crop)[0].objects
    np.testing.assert_allclose(objects.boxes[4], [30, 40, 60, 80])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixations": []}, "line 3: 'fixations' is no list of numbers"),
        ({"fixations": ["a"]}, "line 3: 'fixations' is no list of numbers"),
        ({"fixations": [6]}, "line 3: a fixation is 6, there are 6 objects"),
        ({"target": 5.0}, "line 4: 'target' is not that of line 3"),
        ({"image": "gone.png"}, "line 4: 'image' is not that of line 3"),
        ({"id": "t", "image": "gone.png"}, r"gone\.png"),
        ({"id": "t", "image": None}, "line 3 has no 'image'"),
        ({"id": "t", "boxes": [[0, 0, 10, 10]], "target": 0, "fixations": [0]}, "has 1 boxes: there is nothing"),
        ({"id": "t", "boxes": [[0, 0, 10, 10], [80, 0, 20, 10]]}, "the box 80, 0, 100, 10 lies outside 1.png"),
        ({"id": "t", "boxes": [[0, 0, 10, 10], [8, 0, -2, 10]]}, "has no area"),
        ({"id": "t", "boxes": [[0, 0, 10, 10], [8, 0, 2]]}, "are no four numbers"),
        ({"id": "t", "boxes": None}, "has neither 'boxes' nor 'rows' and 'cols'"),
    ],
)
def test_recorded_paths_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_recorded(people(tmp_path, **changes), SHAPE.crop)
    assert "\n" not in str(error.value)


def test_few_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds 4 scenes"):
        read_recorded(people(tmp_path, 4), SHAPE.crop)


def test_a_run_on_recorded_paths(tmp_path: Path) -> None:
    report = train_oat(options(tmp_path / "run", data=str(people(tmp_path))), arguments={})
    (item,) = report.items
    (table,) = [section for section in item.sections if section.name == "samplers"]
    rows = {row["sampler"]: row for row in table.rows()}
    assert set(rows) == {OWN, CEILING, *baselines.BASELINES}
    assert "sim" in rows[OWN]
    assert "sim" not in rows[CEILING]  # whose rule nobody knows
    assert np.isnan(rows[CEILING]["delta"])  # both sides are the same people
    assert 0 < rows[CEILING]["ss"] <= 1
    model = read_model(tmp_path / "run" / "model.safetensors")
    longest = [len(p) for s in divided(read_recorded(tmp_path / "people.jsonl", SHAPE.crop), 77)[0] for p in s.paths]
    assert model.shape.longest == max(longest)
    assert "people's paths over 8 scenes of `people.jsonl`" in (tmp_path / "run" / "model.md").read_text()


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="width: 20 is no multiple of twice the 4 heads"):
        OATOptions(tmp_path, width=20, heads=4)
    (tmp_path / "x.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(UsageError, match="is no scanpath model of attn"):
        read_model(tmp_path / "x.safetensors")
