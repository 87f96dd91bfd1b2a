import numpy as np
import pytest

from attn.core.retrieve.gadms.confusable import INVENTED, MOST_WORDS, NOUNS, make_families
from attn.core.retrieve.gadms.people import COLOURS
from attn.core.retrieve.gadms.tokenizer import split_words

CLEAN = {"errors": 0.0, "invented": 0.0, "images_each": 1, "captions_each": 1}


def said(people):
    """What captions without errors say of each person: noun -> value."""
    found = []
    for caption in people.captions:
        words = split_words(caption)
        found.append({noun: words[words.index(noun) - 1] for noun in NOUNS.values()})
    return found


def test_members_of_a_family_differ_in_one_attribute():
    everyone = said(make_families(20, 1, **CLEAN))
    assert len(everyone) == 80
    assert len({tuple(one.items()) for one in everyone}) == 80
    for first in range(0, 80, 4):
        family = everyone[first : first + 4]
        differing = [noun for noun in NOUNS.values() if len({one[noun] for one in family}) > 1]
        assert len(differing) == 1
        assert len({one[differing[0]] for one in family}) == 4


def test_parts_of_a_seed_share_nobody():
    whole, rest = said(make_families(12, 2, **CLEAN)), said(make_families(5, 2, skip=7, **CLEAN))
    assert whole[28:] == rest
    assert said(make_families(12, 3, **CLEAN)) != whole


def test_what_is_wrong_is_seen_elsewhere_in_the_image():
    clean, mixed = said(make_families(60, 4, **CLEAN)), make_families(60, 4, images_each=1, captions_each=2)
    wrong = right = invented = 0
    for caption, place, good, bad in zip(mixed.captions, mixed.caption_image, mixed.right, mixed.wrong, strict=True):
        words, truth = split_words(caption), clean[place]
        assert len(words) <= MOST_WORDS
        assert not good & bad
        assert all(truth[words[i + 1]] == words[i] for i in good)
        for i in bad:
            if words[i] in INVENTED:
                invented += 1
                continue
            kind = words[i + 1]
            assert truth.get(kind) != words[i]
            if words[i] in COLOURS and len({v for v in truth.values() if v in COLOURS}) > 1:
                assert words[i] in truth.values()
            wrong += kind not in INVENTED
        right += len(good)
    assert wrong / (wrong + right) == pytest.approx(0.3, abs=0.03)
    assert invented / len(mixed.captions) == pytest.approx(0.5, abs=0.07)


def test_same_seed_same_people():
    first, again = make_families(3, 5), make_families(3, 5)
    assert np.array_equal(first.images, again.images)
    assert first.captions == again.captions
    assert first.image_ids.tolist() == [i // 2 for i in range(24)]


def test_too_many_families():
    with pytest.raises(ValueError, match="families, 9000 were asked for"):
        make_families(9000, 0)
