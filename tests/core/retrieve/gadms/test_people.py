import json

import numpy as np
import pytest

from attn.core.io.photo.read import read_photo
from attn.core.retrieve.data.formats import read_captioned
from attn.core.retrieve.gadms.people import COLOURS, HAIR, make_people, write_people
from attn.core.retrieve.gadms.tokenizer import split_words


def test_same_seed_same_people_other_seed_others():
    first, again, other = make_people(5, 1), make_people(5, 1), make_people(5, 2)
    assert np.array_equal(first.images, again.images)
    assert first.captions == again.captions
    assert first.captions != other.captions
    assert first.images.shape == (10, 3, 64, 32)
    assert first.image_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert first.caption_image.tolist() == [i // 2 for i in range(20)]


def test_planted_errors_are_where_they_are_said_to_be():
    people = make_people(150, 3, captions_each=2)
    values = set(COLOURS) | set(HAIR) | {"no"}
    wrong = right = 0
    for caption, good, bad in zip(people.captions, people.right, people.wrong, strict=True):
        words = split_words(caption)
        assert not good & bad
        assert len(good | bad) == 5
        assert {i for i, word in enumerate(words) if word in values} == good | bad
        wrong, right = wrong + len(bad), right + len(good)
    assert wrong / (wrong + right) == pytest.approx(0.2, abs=0.03)


def test_clean_captions_of_one_person_agree():
    people = make_people(20, 3, errors=0.0, fillers=0)
    assert not any(people.wrong)
    said = [frozenset(split_words(caption)) & set(COLOURS) for caption in people.captions]
    for person in range(20):
        assert len(set(said[4 * person : 4 * person + 4])) == 1


def test_skipped_people_are_not_drawn_again():
    both = make_people(12, 4, errors=0.0, fillers=0, images_each=1, captions_each=1)
    rest = make_people(6, 4, errors=0.0, fillers=0, images_each=1, captions_each=1, skip=6)

    def said(people):
        return [tuple(sorted(split_words(c))) for c in people.captions]

    assert not {c for c in said(rest)} & {c for c in said(make_people(6, 4, errors=0.0, fillers=0))}
    assert len(set(said(both))) > 6


def test_too_many_people():
    with pytest.raises(ValueError, match="18432 different people, 20000 were asked for"):
        make_people(20000, 0)


def test_written_as_our_format(tmp_path):
    train, val = make_people(2, 5), make_people(1, 5, skip=2)
    path = write_people({"train": train, "val": val}, tmp_path)
    _, found = read_captioned(path)
    assert [one.split for one in found] == ["train"] * 4 + ["val"] * 2
    assert [one.identity for one in found] == ["0", "0", "1", "1", "2", "2"]
    assert found[1].captions == train.captions[2:4]
    pixels = read_photo(tmp_path / found[1].image).pixels
    assert np.array_equal((pixels * 255).round().astype(np.uint8), train.images[1])
    assert all(json.loads(line)["captions"] for line in path.read_text().splitlines())
