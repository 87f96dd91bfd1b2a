"""``attn probe scanpath``: boxes of any form, the path over a picture, two sets of paths, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attn.core.errors import AttnError, InputError, UsageError
from attn.core.options import OptionError
from attn.core.probe.panel import read_figure
from attn.core.probe.scanpath.boxes import objects_of, read_boxes
from attn.core.probe.scanpath.compare import ScenePaths, compare
from attn.core.probe.scanpath.drawing import BOX, TARGET, overlay
from attn.core.probe.scanpath.model import WEIGHTS, read_model, step_probabilities
from attn.core.probe.scanpath.objects import GRID, Objects, cut, scene_tensors
from attn.core.probe.scanpath.options import ScanpathOptions, SearchInputs
from attn.core.probe.scanpath.paths import compare_files, read_paths
from attn.core.probe.scanpath.run import run
from attn.core.probe.scanpath.shelves import draw_shelf

BOXES = [(4, 6, 24, 36), (30, 6, 50, 36), (56, 6, 76, 36), (4, 44, 24, 74), (30, 44, 50, 74), (56, 44, 76, 74)]
NAMES = ["milk", "oats", "rice", "salt", "tea", "rice"]
SIZE = (80, 90)


def rows(form: str) -> list[dict[str, Any]]:
    found = []
    for number, ((x0, y0, x1, y1), name) in enumerate(zip(BOXES, NAMES, strict=True)):
        box = {
            "corners": {"x0": x0, "y0": y0, "x1": x1, "y1": y1},
            "pascal": {"xmin": x0, "ymin": y0, "xmax": x1, "ymax": y1},
            "sides": {"x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0},
            "bbox": {"bbox": [x0, y0, x1 - x0, y1 - y0]},
            "box": {"box": [x0, y0, x1, y1]},
        }[form]
        found.append({**box, "label": name, "target": int(number == 4)})
    return found


def written(path: Path, cells: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        lines = [",".join(cells[0]), *(",".join(str(value) for value in row.values()) for row in cells)]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in cells))
    else:
        path.write_text(json.dumps(cells))
    return path


def picture(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "shop.png")
    return folder / "shop.png"


def options(*inputs: object, **changes: Any) -> ScanpathOptions:
    output = changes.pop("output", None)
    given = SearchInputs(tuple(map(str, inputs)), None if output is None else str(output))
    return ScanpathOptions(given, **{"device": "cpu", "samples": 4, "animation": False, **changes})


@pytest.mark.parametrize(
    ("name", "form"),
    [("b.csv", "corners"), ("b.csv", "pascal"), ("b.csv", "sides"), ("b.json", "bbox"), ("b.json", "box"),
     ("b.jsonl", "corners")],
)  # fmt: skip
def test_boxes_of_all_forms(tmp_path: Path, name: str, form: str) -> None:
    path = written(tmp_path / name, rows(form))
    found = objects_of(path, read_boxes(path), "shop.png", SIZE, None)
    np.testing.assert_array_equal(found.boxes, BOXES)
    assert found.target == 4
    assert found.labels == tuple(NAMES)
    assert objects_of(path, read_boxes(path), "shop.png", SIZE, "milk").target == 0
    assert objects_of(path, read_boxes(path), "shop.png", SIZE, "6").target == 5


def test_coco_of_several_pictures(tmp_path: Path) -> None:
    value = {
        "images": [{"id": 7, "file_name": "a/shop.png"}, {"id": 8, "file_name": "other.png"}],
        "categories": [{"id": 1, "name": "tin"}, {"id": 2, "name": "box"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [1, 2, 10, 20]},
            {"image_id": 8, "category_id": 1, "bbox": [500, 2, 10, 20]},
            {"image_id": 7, "category_id": 2, "bbox": [20, 2, 10.5, 20]},
        ],
    }
    (tmp_path / "c.json").write_text(json.dumps(value))
    found = objects_of(tmp_path / "c.json", read_boxes(tmp_path / "c.json"), "shop.png", SIZE, "box")
    np.testing.assert_array_equal(found.boxes, [[1, 2, 11, 22], [20, 2, 30.5, 22]])
    assert found.target == 1


@pytest.mark.parametrize(
    ("change", "target", "message"),
    [
        (lambda r: r[2].update(x1=95), None, r"line 4: the box 56, 6, 95, 36 lies outside shop.png \(90 x 80\)"),
        (lambda r: r[2].update(x0=-1), None, "lies outside"),
        (lambda r: r[2].update(x0=80), None, "has no area"),
        (lambda r: r[2].update(y0="nan"), None, "has no area"),
        (lambda r: r[2].update(y0="high"), None, "are no four numbers"),
        (lambda r: r.__delitem__(slice(0, 5)), "1", "has one object of shop.png"),
        (lambda r: [one.update(target=0) for one in r], None, "has no target among its objects"),
        (lambda r: r[0].update(target=1), None, "marks 2 of its 6 objects as target"),
        (lambda r: r[0].update(target="perhaps"), None, "line 2: 'target' is 'perhaps'"),
        (lambda r: None, "cheese", "has no object 'cheese': the target is not among its 6 objects"),
        (lambda r: None, "7", "has no object '7'"),
        (lambda r: None, "rice", "has 2 objects of the label 'rice'"),
        (lambda r: [one.update(image="b.png") for one in r], None, "has no box of shop.png, but of b.png"),
        (lambda r: [one.pop("y1") for one in r], None, "line 2 has no box; it has x0, y0, x1, label, target"),
    ],
)
def test_boxes_that_are_refused(tmp_path: Path, change: Any, target: str | None, message: str) -> None:
    cells = rows("corners")
    change(cells)
    path = written(tmp_path / "b.csv", cells)
    with pytest.raises(InputError, match=message) as error:
        objects_of(path, read_boxes(path), "shop.png", SIZE, target)
    assert "\n" not in str(error.value)


def test_places_are_counted_in_objects_and_shrunk_to_fit() -> None:
    boxes = np.array(BOXES, float)
    cells, shrunk = Objects(boxes, 0, SIZE).cells()
    assert shrunk == 1
    np.testing.assert_allclose(cells[:, 0], np.repeat([0, 38 / 37.5], 3))
    np.testing.assert_allclose(cells[:, 1], np.tile([0, 26 / 25, 52 / 25], 2))
    wide = np.array([[40 * n, 0, 40 * n + 20, 30] for n in range(30)], float)
    cells, shrunk = Objects(wide, 0, (30, 1200)).cells()
    assert cells.max() == GRID - 1
    assert shrunk == pytest.approx(29 * 1.6 / 15)


def test_crops_are_stretched() -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:, 10:] = 100
    left, whole = cut(pixels, np.array([[0, 0, 10, 20], [0, 0, 20, 20.0]]), (4, 6)).numpy()
    assert not left.any()
    assert whole.min() == 0
    assert whole.max() == 255


def test_weights_that_ship_know_a_shelf() -> None:
    """What is drawn is what `attn train oat` draws: the next fixation is likelier than by chance, targets are met."""
    assert WEIGHTS.stat().st_size < 1_000_000
    model = read_model(WEIGHTS)
    likely = []
    for seed in range(6):
        shelf = draw_shelf(np.random.default_rng((1, seed)), 3, 4)
        objects = Objects(shelf.boxes, shelf.target, shelf.picture.shape[:2])  # type: ignore[arg-type]
        scene = scene_tensors(shelf.picture, objects, model.shape.crop)
        likely.append(float(step_probabilities(model.net, scene, [shelf.target])[1, -1]))
    assert np.mean(likely) > 0.6  # at the target it stops
    assert (WEIGHTS.with_suffix(".md")).read_text().count("| targets | oat |") == 1


def test_a_picture_and_its_boxes(tmp_path: Path) -> None:
    source = picture(tmp_path)
    written(tmp_path / "shop.boxes.csv", rows("corners"))
    report = run(options(source, output=tmp_path / "out", animation=True), arguments={})
    (item,) = report.items
    assert item.status == "ok"
    assert "knows drawn shelves" in report.notices[0]
    figure = read_figure(tmp_path / "out" / "shop.scanpath.json")
    path = figure.arrays["path"]
    np.testing.assert_allclose(figure.arrays["probabilities"].sum(1), 1, atol=1e-5)
    assert figure.arrays["probabilities"].shape == (len(path) + 1, 7)
    assert path[0] == figure.arrays["probabilities"][0].argmax()
    with Image.open(tmp_path / "out" / "shop.path.gif") as film:
        assert film.size == SIZE[::-1]
        assert film.n_frames == len(path) + 1  # type: ignore[attr-defined]
    with Image.open(tmp_path / "out" / "shop.path.png") as large:
        assert large.size == SIZE[::-1]
    lines = read_paths(tmp_path / "out" / "shop.paths.jsonl")
    assert len(lines) == 1 + 4
    assert lines[0].fixations == tuple(map(str, path))
    assert lines[0].target == "4"
    table = list(csv.DictReader((tmp_path / "out" / "shop.fixations.csv").open()))
    assert [int(row["object"]) - 1 for row in table] == path.tolist()
    assert [row["label"] for row in table] == [NAMES[item] for item in path]
    again = run(options(source, output=tmp_path / "out"), arguments={})
    assert again.items[0].status == "skipped"


def test_a_picture_without_boxes_is_one_line_and_others_go_on(tmp_path: Path) -> None:
    source = picture(tmp_path)
    (tmp_path / "bare.png").write_bytes(source.read_bytes())
    written(tmp_path / "shop.boxes.json", rows("bbox"))
    report = run(options(tmp_path / "bare.png", source, output=tmp_path / "out"), arguments={})
    assert [item.status for item in report.items] == ["failed", "ok"]
    assert "has no boxes" in str(report.items[0].error)


def test_a_folder_is_looked_at_twice_without_its_results(tmp_path: Path) -> None:
    picture(tmp_path)
    written(tmp_path / "shop.boxes.csv", rows("corners"))
    first, second = (run(options(tmp_path, animation=True), arguments={}) for _ in range(2))
    assert [item.status for item in first.items] == ["ok"]
    assert [item.status for item in second.items] == ["skipped"]


def test_a_file_of_boxes_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AttnError, match=r"none\.csv"):
        run(options(picture(tmp_path), boxes=tmp_path / "none.csv"), arguments={})


def test_a_drawn_shelf_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (run(options("shelf:5", output=tmp_path / name), arguments={}) for name in "ab")
    assert first.items[0].metrics == second.items[0].metrics
    texts = [(tmp_path / name / "shelf-5.paths.jsonl").read_text() for name in "ab"]
    assert texts[0] == texts[1]


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="two files of paths are compared, not 1"):
        options("a.jsonl", metrics=True)
    with pytest.raises(OptionError, match="a drawn shelf stands alone"):
        options("shelf:1", "a.png")
    with pytest.raises(OptionError, match="target: a drawn shelf has its own"):
        options("shelf", target="3")
    with pytest.raises(OptionError, match="it is about MultiMatch"):
        options("shelf", compat=True)
    with pytest.raises(UsageError, match=r"none\.safetensors"):
        run(options("shelf", model=str(tmp_path / "none.safetensors"), output=tmp_path), arguments={})


def test_the_path_is_drawn_on_the_picture() -> None:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    objects = Objects(np.array(BOXES, float), 4, SIZE)
    drawn = overlay(pixels, objects, [0, 4])
    assert tuple(drawn[6, 10]) == BOX
    assert tuple(drawn[44, 35]) == TARGET
    assert drawn[21, 10:18].any()  # a disc at the first object's centre
    assert not pixels.any()
    assert (drawn != overlay(pixels, objects, [0, 4], 1)).any()


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_two_files_of_paths(tmp_path: Path) -> None:
    grid = {"id": "s", "rows": 2, "cols": 3, "screen": [300, 200], "target": 5}
    one = lines(tmp_path / "a.jsonl", {**grid, "fixations": [0, 1, 2, 5]}, {**grid, "fixations": [5]})
    other = lines(tmp_path / "b.jsonl", {**grid, "fixations": [0, 1, 2, 5]}, {"id": "t", "fixations": ["x"]})
    found = compare_files(one, other)
    assert found.metrics["ss"] == pytest.approx((1 + 1 / 4) / 2)
    assert found.metrics["fed"] == pytest.approx(1.5)
    assert found.metrics["mm_vector"] == 1  # the pair with one fixation is NaN and counted
    assert found.metrics["mm_undefined"] == 1
    assert found.metrics["delta"] == pytest.approx((0 + 1.5 / 4) / 5) or np.isnan(found.metrics["delta"])
    assert any("1 of 2 pairs have a path of one or two fixations" in text for text in found.warnings)
    assert any("1 of 2 scenes of b.jsonl are not in the other file" in text for text in found.warnings)
    filled = compare_files(one, other, compat=True).metrics
    assert filled["mm_undefined"] == 0
    assert filled["mm_vector"] < 1
    report = run(options(one, other, metrics=True), arguments={})
    assert report.items[0].metrics["ss"] == found.metrics["ss"]


def test_pixels_decide_where_they_are_given(tmp_path: Path) -> None:
    base = {"id": "s", "fixations": ["a", "b", "c"], "screen": [100, 100]}
    one = lines(tmp_path / "a.jsonl", {**base, "xy": [[0, 0], [10, 0], [10, 50]]})
    other = lines(tmp_path / "b.jsonl", {**base, "xy": [[0, 0], [30, 0], [30, 50]]})
    found = compare_files(one, other).metrics
    assert found["ss"] == 1
    assert found["mm_position"] < 1
    assert np.isnan(found["delta"])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"fixations": [1]}, "line 1 has no 'id'"),
        ({"id": "s"}, "line 1 has no list of objects under 'fixations'"),
        ({"id": "s", "fixations": []}, "line 1 has no fixation"),
        ({"id": "s", "fixations": [1.5]}, "has no list of objects"),
        ({"id": "s", "fixations": [1], "screen": [10]}, "'screen' is no width and height"),
        ({"id": "s", "fixations": [1, 2], "xy": [[0, 0]]}, "'xy' is of shape"),
        ({"id": "s", "fixations": [1], "xy": [["a", 0]]}, "'xy' holds what is no number"),
        ({"id": "s", "fixations": [6], "rows": 2, "cols": 3, "screen": [9, 9]}, "is no cell of a grid of 2 x 3"),
    ],
)
def test_paths_that_are_refused(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = lines(tmp_path / "a.jsonl", record)
    with pytest.raises(InputError, match=message) as error:
        read_paths(path)
    assert "\n" not in str(error.value)


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    one = lines(tmp_path / "a.jsonl", {"id": "s", "fixations": [1], "target": 1})
    other = lines(tmp_path / "b.jsonl", {"id": "t", "fixations": [1]})
    with pytest.raises(UsageError, match="have no scene in common"):
        compare_files(one, other)
    lines(other, {"id": "s", "fixations": [1], "target": 2})
    with pytest.raises(AttnError, match="lines name different targets"):
        compare_files(one, other)
    with pytest.raises(InputError, match="holds no path"):
        read_paths(lines(tmp_path / "c.jsonl"))


def test_scores_of_the_same_paths_are_the_best_there_are() -> None:
    paths = [[0, 1, 1, 2, 0, 3], [2, 3, 1, 3]]
    centres = np.array([[5, 5], [15, 5], [5, 15], [15, 15.0]])
    scenes = [ScenePaths([path], [path], 3, centres, (20.0, 20.0)) for path in paths]
    found = compare(scenes)
    assert found["ss"] == found["mm_vector"] == found["mm_position"] == 1
    assert found["fed"] == found["delta"] == 0
    assert found["tfp_auc"] == found["human_tfp_auc"]
