import random

import pytest

from attn.core.retrieve.gadms.masking import (
    UNIFORM_SCORE,
    draw,
    informative_probability,
    mask_caption,
    noise_probability,
)

MASK = 97
CAPTION = [98, 5, 6, 7, 99, 0, 0]


class Fixed(random.Random):
    """Gives the numbers it is told."""

    def __init__(self, *numbers):
        super().__init__(0)
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)

    def choice(self, values):
        assert values == range(1, MASK)
        return 42


def test_probabilities_turn_at_one_tenth():
    assert informative_probability(UNIFORM_SCORE) == pytest.approx(0.15)
    assert noise_probability(UNIFORM_SCORE) == pytest.approx(0.1)
    assert informative_probability(1) == pytest.approx(0.3, abs=1e-6)
    assert noise_probability(0) == pytest.approx(0.2 / (1 + 2.718281828**-2))
    assert noise_probability(1) < 1e-7
    assert noise_probability(-3) == noise_probability(0)
    assert informative_probability(7) == informative_probability(1)


def test_what_becomes_of_drawn_words():
    # p = 0.5: u / p is 0.78 (mask), 0.88 (random word), 0.98 (stays); 0.5 itself is not drawn
    masked, labels = draw([98, 5, 6, 7, 8, 99], [0.5] * 6, Fixed(0.39, 0.44, 0.49, 0.5), mask_id=MASK)
    assert masked == [98, MASK, 42, 7, 8, 99]
    assert labels == [0, 5, 6, 7, 0, 0]


def test_one_number_per_word_and_none_for_anything_else():
    generator = Fixed(0.9, 0.9, 0.9, "left")
    draw(CAPTION, [0.5] * 7, generator, mask_id=MASK)
    assert generator.numbers == ["left"]


def test_fallbacks_where_nothing_is_drawn():
    nothing = [0.9] * 6
    ours = mask_caption(CAPTION, [0.85] * 7, Fixed(*nothing), mask_id=MASK)
    assert ours.mlm_ids == [98, MASK, 6, 7, 99, 0, 0]
    assert ours.mlm_labels == [0, 5, 0, 0, 0, 0, 0]
    assert ours.noise_ids == CAPTION
    released = mask_caption(CAPTION, [0.85] * 7, Fixed(*nothing), mask_id=MASK, masking="released")
    assert released.noise_ids == [98, MASK, 6, 7, 99, 0, 0]


def test_a_caption_without_words_keeps_its_end():
    empty = [98, 99, 0]
    ours = mask_caption(empty, [0.85] * 3, random.Random(0), mask_id=MASK)
    assert (ours.noise_ids, ours.mlm_ids, ours.mlm_labels) == (empty, empty, [0, 0, 0])
    released = mask_caption(empty, [0.85] * 3, random.Random(0), mask_id=MASK, masking="released")
    assert released.noise_ids == [98, MASK, 0]  # as released: the end token is lost


def test_shares_of_many_draws():
    words = [98, *range(1, 61), 99]
    generator = random.Random(1)
    runs = [mask_caption(words, [1.0] * 31 + [0.0] * 31, generator, mask_id=MASK) for _ in range(300)]
    predicted = [sum(label > 0 for label in run.mlm_labels[1:31]) / 30 for run in runs]
    hidden = [sum(a != b for a, b in zip(run.noise_ids[31:61], words[31:61], strict=True)) / 30 for run in runs]
    kept = [sum(a != b for a, b in zip(run.noise_ids[1:31], words[1:31], strict=True)) for run in runs]
    assert sum(predicted) / 300 == pytest.approx(0.3, abs=0.02)
    assert sum(hidden) / 300 == pytest.approx(0.9 * noise_probability(0), abs=0.02)
    assert sum(kept) == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="7 tokens have 3 scores"):
        mask_caption(CAPTION, [0.85] * 3, random.Random(0), mask_id=MASK)
    with pytest.raises(ValueError, match="neither attn nor released"):
        mask_caption(CAPTION, [0.85] * 7, random.Random(0), mask_id=MASK, masking="paper")
