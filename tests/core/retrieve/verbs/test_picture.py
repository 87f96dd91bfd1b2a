"""Contact sheets as pictures, read back by their pixels."""

import numpy as np
import pytest
from PIL import Image

import attn
from attn.core.errors import InputError
from attn.core.report.model import Report
from attn.core.retrieve.score.results import Result
from attn.core.retrieve.store.base import Hit
from attn.core.retrieve.verbs.found import Found
from attn.core.retrieve.verbs.picture import CELL, GAP, THUMBNAIL, TITLE
from attn.core.retrieve.verbs.sheet import write_sheet

RED, BLUE = (220, 30, 30), (30, 30, 220)


def found(*results):
    return Found(results, Report("retrieve", attn.__version__, {}, "cpu", 0.0, (), {}), "i", "model")


def hit(key, score, **meta):
    return Hit(key, score, meta)


@pytest.fixture
def photos(tmp_path):
    for name, colour in (("red", RED), ("blue", BLUE)):
        Image.new("RGB", (320, 240), colour).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_row_of_hits_for_each_query_best_first(photos, suffix):
    ranked = [hit("b", 0.2, path=str(photos / "blue.png")), hit("r", 0.9, path=str(photos / "red.png"))]
    write_sheet(photos / f"s.{suffix}", found(Result("1", "a red thing", ranked, sentence=True)))
    pixels = np.asarray(Image.open(photos / f"s.{suffix}").convert("RGB")).astype(int)
    middle = GAP + TITLE + THUMBNAIL // 2
    for place, colour in enumerate((RED, BLUE)):
        assert np.abs(pixels[middle, GAP + place * CELL + THUMBNAIL // 2] - colour).max() < 12
    assert (pixels[middle, GAP + 2 * CELL + THUMBNAIL // 2] == 255).all()
    assert (pixels[GAP : GAP + TITLE] < 128).any()  # the query is written above


def test_texts_files_that_are_gone_and_nothing_at_all(photos):
    ranked = [hit("t", 0.5, text="words " * 400), hit("g", 0.4, path=str(photos / "gone.jpg"))]
    outcome = found(Result("1", "q" * 4000, ranked, sentence=True), Result("2", str(photos / "red.png"), []))
    write_sheet(photos / "s.png", outcome)
    pixels = np.asarray(Image.open(photos / "s.png"))
    assert (pixels[GAP + TITLE : GAP + TITLE + THUMBNAIL, GAP : GAP + THUMBNAIL] < 128).any()
    assert (pixels[:, -GAP // 2 :] == 255).all()  # nothing runs over the edge


def test_too_many_hits_for_one_picture(photos):
    many = [hit(str(i), 0.5, text="words") for i in range(600)]
    with pytest.raises(InputError, match=r"Name a page, such as hits\.html"):
        write_sheet(photos / "s.png", found(Result("1", "q", many, sentence=True)))
    assert not (photos / "s.png").exists()
