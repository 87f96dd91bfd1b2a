"""Drawn scenes: the same from a seed, nothing outside the canvas, answers that fit the picture."""

from __future__ import annotations

import numpy as np
import pytest

from attn.core.prune.shapes.drawing import GREY, RGB, render
from attn.core.prune.shapes.questions import ask, presence
from attn.core.prune.shapes.scenes import BOX, GRID, OVERLAP, PATCH, SIDE, draw_scenes
from attn.core.prune.shapes.sets import DEVELOPMENT, TEST, evaluation_set
from attn.core.prune.shapes.words import ANSWERS, CELLS, COLOURS, NUMBER, QUESTIONS, SHAPES, TASKS, WORDS


def generator(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_seed_gives_the_same_pictures() -> None:
    first, second, other = (evaluation_set("where", 40, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.pictures, second.pictures)
    assert first.question(7) == second.question(7)
    assert not np.array_equal(first.pictures, other.pictures)


def test_development_and_test_share_no_picture() -> None:
    assert DEVELOPMENT != TEST
    one, two = (evaluation_set("colour", 200, seed=seed).pictures.reshape(200, -1) for seed in (DEVELOPMENT, TEST))
    assert not {row.tobytes() for row in one} & {row.tobytes() for row in two}


@pytest.mark.parametrize("letterbox", [0.0, 1.0])
def test_boxes_lie_in_the_picture_and_hardly_overlap(letterbox: float) -> None:
    scenes = draw_scenes(generator(), 400, letterbox=letterbox)
    boxes, region = scenes.boxes(), scenes.region[:, None]
    low, high = boxes[scenes.present][:, :2], boxes[scenes.present][:, 2:]
    bounds = np.broadcast_to(region, boxes.shape)[scenes.present]
    assert (low >= bounds[:, :2]).all()
    assert (high <= bounds[:, 2:]).all()
    for first in range(7):
        for second in range(first):
            both = scenes.present[:, first] & scenes.present[:, second]
            corner = np.minimum(boxes[both, first, 2:], boxes[both, second, 2:])
            common = np.clip(corner - np.maximum(boxes[both, first, :2], boxes[both, second, :2]), 0, None).prod(1)
            smaller = np.minimum(scenes.side[both, first], scenes.side[both, second]) ** 2
            assert (common <= OVERLAP * smaller).all()


def test_objects_have_their_colours_where_the_boxes_say() -> None:
    """The middle of a square is of its colour; a box moved or a colour confused would show."""
    scenes = draw_scenes(generator(), 300, most=1, digits=0.0, density=0.0)
    pictures = render(generator(1), scenes).astype(float)
    squares = np.nonzero(scenes.present[:, 0] & (scenes.shape[:, 0] == SHAPES.index("square")))[0]
    assert len(squares) > 30
    middle = (scenes.x[squares, 0] + scenes.side[squares, 0] // 2, scenes.y[squares, 0] + scenes.side[squares, 0] // 2)
    seen = pictures[squares, middle[1], middle[0]]
    nearest = np.linalg.norm(seen[:, None] - RGB, axis=2).argmin(1)
    assert np.array_equal(nearest, scenes.colour[squares, 0])


def test_letterboxed_pictures_have_grey_bars_and_no_more() -> None:
    drawn = evaluation_set("colour", 60, letterbox=1.0)
    for number in range(60):
        x0, y0, x1, y1 = drawn.scenes.region[number]
        outside = np.ones((SIDE, SIDE), bool)
        outside[y0:y1, x0:x1] = False
        assert outside.sum() == SIDE * 32
        assert (drawn.pictures[number][outside] == GREY).all()
        assert drawn.uncropped(number).shape[:2] in ((64, 96), (96, 64))


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_is_as_frequent(task: str) -> None:
    drawn = evaluation_set(task, 500)
    counts = np.bincount(drawn.answer, minlength=len(ANSWERS[task]))
    assert counts.max() - counts.min() <= 1
    assert {drawn.answer_word(number) for number in range(500)} == set(ANSWERS[task])


def answered(question: list[str], objects: list[tuple[str, str, float, float]], digit: int) -> str:
    """The answer, found by reading the words: an implementation that shares nothing with the one under test."""
    if question[:2] == ["what", "colour"]:
        (colour,) = {colour for shape, colour, *_ in objects if shape == question[-1]}
        return colour
    if question[0] == "is":
        return "yes" if any((colour, shape) == tuple(question[-2:]) for shape, colour, *_ in objects) else "no"
    if question[0] == "how":
        return str(min(4, sum(shape + ("es" if shape == "cross" else "s") == question[-1] for shape, *_ in objects)))
    if question[0] == "where":
        ((x, y),) = [(x, y) for shape, colour, x, y in objects if [colour, shape] == question[-2:]]
        return CELLS[int(min(y // 32, 2)) * 3 + int(min(x // 32, 2))]
    if "digit" in question:
        return str(digit)
    ((x0, y0),) = [(x, y) for shape, colour, x, y in objects if [colour, shape] == question[-2:]]
    inside = []
    for shape, _, x, y in objects:
        dx, dy = x - x0, y - y0
        towards, across = {"left": (-dx, dy), "right": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[question[2]]
        if towards > abs(across):
            inside.append(shape)
    (found,) = inside
    return found


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_right(task: str) -> None:
    drawn = evaluation_set(task, 300)
    scenes, centre = drawn.scenes, drawn.scenes.centres()
    for number in range(300):
        objects = [
            (SHAPES[scenes.shape[number, k]], COLOURS[scenes.colour[number, k]], *map(float, centre[number, k]))
            for k in range(6)
            if scenes.present[number, k]
        ]
        words = drawn.question(number).split()
        assert answered(words, objects, int(scenes.digit[number])) == drawn.answer_word(number)  # type: ignore[arg-type]


def test_evidence_is_what_the_answer_depends_on() -> None:
    for task, most in (("colour", 1), ("where", 1), ("relation", 2), ("digit", 1)):
        drawn = evaluation_set(task, 100)
        assert (drawn.evidence.sum(1) == most).all()
        assert (drawn.scenes.present | ~drawn.evidence).all()
    exists = evaluation_set("exists", 100)
    assert np.array_equal(exists.evidence.any(1), exists.answer == 0)
    count = evaluation_set("count", 100)
    few = count.answer < 4
    assert np.array_equal(count.evidence.sum(1)[few], count.answer[few])
    digit = evaluation_set("digit", 50)
    assert (digit.evidence_pixels().sum((1, 2)) == 14 * 14).all()
    assert digit.evidence[:, BOX].all()


def test_coverage_counts_pixels() -> None:
    scenes = draw_scenes(generator(2), 50)
    picture = np.zeros((SIDE, SIDE), int)
    x0, y0, x1, y1 = scenes.boxes()[9, 0]
    picture[y0:y1, x0:x1] = 1
    patches = picture.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
    assert np.array_equal(scenes.coverage()[9, 0], patches)


def test_words() -> None:
    assert len(WORDS) == len(set(WORDS)) == 60
    assert [NUMBER[word] for word in ("<pad>", "<bos>", "<eos>", "<image>")] == [0, 1, 2, 3]
    assert all(word is None or word in NUMBER for form in QUESTIONS.values() for word in form)


def test_presence_and_invalid_questions() -> None:
    scenes = draw_scenes(generator(3), 200, digits=0.5)
    assert np.array_equal(ask(generator(), scenes, "digit").valid, scenes.digit >= 0)
    assert presence(scenes).sum(1).min() >= 1
