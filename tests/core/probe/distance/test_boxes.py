"""Boxes of COCO JSON: which picture they are of, which are none, and which patches lie in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attn.core.errors import UsageError
from attn.core.probe.distance.boxes import in_boxes, read_boxes, usable


def coco(path: Path, names: list[str], boxes: list[tuple[int, list[Any]]], **sizes: int) -> Path:
    """A COCO file of pictures with ids from 1, and boxes (id, [x, y, w, h])."""
    images = [{"id": number, "file_name": name, **sizes} for number, name in enumerate(names, 1)]
    annotations = [{"id": n, "image_id": of, "bbox": box, "category_id": 1} for n, (of, box) in enumerate(boxes)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_the_end_of_a_path(tmp_path: Path) -> None:
    one = coco(tmp_path / "one.json", ["a/1.jpg", "2.jpg"], [(1, [1, 2, 3, 4]), (1, [0, 0, 9, 9])])
    two = coco(tmp_path / "two.json", ["1.jpg"], [(1, [5, 5, 1, 1])], width=8, height=6)
    index = read_boxes((one, two))
    first = index.of(Path("data/a/1.jpg"))
    assert first is not None
    assert first.size is None
    assert first.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 9, 9]]
    other = index.of(Path("data/b/1.jpg"))
    assert other is not None
    assert other.size == (6, 8)
    assert index.of(tmp_path / "3.jpg") is None
    empty = index.of(tmp_path / "2.jpg")
    assert empty is not None
    assert empty.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "cannot be read as COCO JSON"),
        ("[]", "no lists images and annotations"),
        ('{"images": [{"id": 1}], "annotations": []}', r"image 0 \(from 0\) has no id or file_name"),
        ('{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}', "the id 1"),
        ('{"images": [], "annotations": [{"image_id": 4, "bbox": [0, 0, 1, 1]}]}', "is of no image"),
        ('{"images": [], "annotations": [{"image_id": [4]}]}', "is of no image"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "bbox": [1, 2]}]}', "four numbers"),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "bbox": [1, 2, NaN, 1]}]}',
            "four numbers",
        ),
        ('{"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}], "annotations": []}', "two pictures"),
    ],
)
def test_files_that_are_none(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=what):
        read_boxes((path,))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"boxes: .*no\.json: does not exist"):
        read_boxes((tmp_path / "no.json",))


def test_boxes_that_are_none() -> None:
    boxes = np.array([[1, 1, 3, 3], [2, 2, 2, 5], [-4, 0, 2, 2], [30, 0, 40, 2], [0, 0, 20, 10.0]])
    kept, told = usable(boxes, (10, 20))
    assert kept.tolist() == [[1, 1, 3, 3], [0, 0, 2, 2], [0, 0, 20, 10]]
    assert [line.split(" and")[0] for line in told] == [
        "1 of 5 boxes have no area", "1 of 5 boxes lie outside the picture",
        "1 of 5 boxes reach beyond the picture",
    ]  # fmt: skip
    assert usable(kept, (10, 20))[1] == []


def test_middles_in_boxes() -> None:
    """x0 <= x < x1: a middle on the left edge is inside, on the right edge it is not."""
    middles = torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 1.0], [3.0, 3.0]])  # (y, x)
    assert in_boxes(middles, np.array([[1.0, 0.0, 3.0, 2.0]])).tolist() == [True, False, False, False]
    assert in_boxes(middles, np.array([[0, 0, 2, 2], [2, 2, 4, 4.0]])).tolist() == [True, False, False, True]
    assert in_boxes(middles, np.zeros((0, 4))).tolist() == [False] * 4
