import numpy as np
import pytest
import torch

from attn.core.errors import UsageError
from attn.core.retrieve.priorclip.open_domain import OTHER_NAMES, UNSEEN, renamed, synthetic_open
from attn.core.retrieve.priorclip.scenes import KINDS
from attn.core.retrieve.priorclip.text import caption_words

COUNTS = {"train": 40, "val": 8, "test": 20, "coarse": 32, "unseen": 12}


@pytest.fixture(scope="module")
def splits():
    return synthetic_open(COUNTS, seed=5, size=32)


def words(pictures):
    return {word for row in pictures.captions for caption in row for word in caption_words(caption)}


def test_fine_captions_know_neither_the_unseen_scenes_nor_the_other_names(splits):
    for split in ("train", "val", "test", "synonyms"):
        assert not set(splits[split].labels) & set(UNSEEN)
    assert set(splits["unseen"].labels) == set(UNSEEN)
    assert set(splits["coarse"].labels) == set(KINDS)
    new = words(splits["synonyms"]) - words(splits["train"])
    assert {"jet", "hut", "vehicle", "airfield"} <= {word.rstrip("s") for word in new}
    assert not {"boat", "tank", "tent", "water"} & words(splits["train"])


def test_coarse_captions_name_scene_ground_and_object_and_no_more(splits):
    said = words(splits["coarse"])
    for label, kind in KINDS.items():
        for named in (kind, renamed(kind, label)):
            assert {*caption_words(named.phrase), *caption_words(named.ground), named.objects} <= said
    assert not {"red", "two", "left", "horizontal", "dark"} & said


def test_synonyms_are_the_same_pictures_in_other_words(splits):
    one, other = splits["test"], splits["synonyms"]
    assert torch.equal(one.images, other.images)
    assert one.names == other.names
    assert all(a != b for a, b in zip(one.captions, other.captions, strict=True))
    first = {word: other for word, other in zip(one.captions[0][0].split(), other.captions[0][0].split(), strict=True)}
    assert first.items() >= {"airport": "airfield"}.items()


def test_other_names_are_new_and_no_scene_shares_them():
    known = {kind.objects for kind in KINDS.values()} | {kind.ground for kind in KINDS.values()}
    names = [name for names in OTHER_NAMES.values() for name in names]
    assert len(set(names)) == len(names)
    assert not known & set(names)
    assert OTHER_NAMES.keys() == KINDS.keys()


def test_every_picture_is_of_one_split_and_the_same_for_a_seed(splits):
    drawn = [splits[split] for split in COUNTS]
    assert len({name for pictures in drawn for name in pictures.names}) == sum(COUNTS.values())
    again, other = synthetic_open(COUNTS, seed=5, size=32), synthetic_open(COUNTS, seed=6, size=32)
    assert torch.equal(splits["train"].images, again["train"].images)
    assert np.mean((splits["train"].images == other["train"].images).numpy()) < 0.5


def test_empty_splits():
    with pytest.raises(UsageError, match="unseen must have at least one"):
        synthetic_open(COUNTS | {"unseen": 0}, seed=1)
