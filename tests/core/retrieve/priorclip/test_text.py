import numpy as np
import pytest

from attn.core.retrieve.priorclip.text import END, PAD, START, UNKNOWN, Vocabulary, clean_caption


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Many planes, parked next to a long building.", "many planes parked next to a long building"),
        ("A two-storey/flat   house!?", "a two storey flat house"),
        ('"it\'s" (a) *#:;~ road', "its a road"),
        (" ".join(f"w{i}" for i in range(40)), " ".join(f"w{i}" for i in range(30))),
    ],
)
def test_cleaning(raw, clean):
    assert clean_caption(raw) == clean
    assert clean_caption(clean) == clean


@pytest.mark.parametrize("raw", ["", "   ", "...!?", "-/-"])
def test_a_caption_without_words_is_an_error(raw):
    with pytest.raises(ValueError, match="has no words"):
        clean_caption(raw)


def test_ids():
    vocabulary = Vocabulary.of(["two red boats", "two roads", "red red"])
    assert vocabulary.words == ("red", "two", "boats", "roads")
    assert len(vocabulary) == 8
    ids, truncated, tokens = vocabulary.encode(["Two ROADS.", "", "three red boats in water"], max_words=4)
    assert ids.tolist() == [
        [START, 5, 7, END, PAD, PAD],
        [START, END, PAD, PAD, PAD, PAD],
        [START, UNKNOWN, 4, 6, UNKNOWN, END],
    ]
    assert truncated.tolist() == [False, False, True]
    assert tokens.tolist() == [4, 2, 6]


def test_rare_words_can_be_left_out_and_nothing_encodes_to_nothing():
    assert Vocabulary.of(["a b", "a"], least=2).words == ("a",)
    ids, truncated, tokens = Vocabulary(()).encode([])
    assert ids.shape == (0, 2)
    assert ids.dtype == np.int64
    assert not truncated.size
    assert not tokens.size
