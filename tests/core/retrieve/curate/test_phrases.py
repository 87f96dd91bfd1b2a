"""Descriptions as templates and back."""

from __future__ import annotations

import numpy as np
import pytest

from attn.core.options import OptionError
from attn.core.retrieve.curate.phrases import filled, fits, follows, left_over, parse, shown, slots
from attn.core.retrieve.curate.templates import clustered, drawn, read_templates, template_of

SENTENCES = (
    "A man in a grey coat with a red bag.",
    "The young woman wears a black and white striped shirt, blue jeans and white sneakers. She carries an orange bag.",
    "A person with dark hair wears a red shirt blue trousers and black shoes and carries no bag",
    "A tall man with short hair in a black jacket over a white t-shirt looks at his phone.",
    "A woman, her long hair in a bun, walks towards us.",
)


@pytest.mark.parametrize("text", SENTENCES)
def test_a_description_fills_its_own_template(text):
    parsed = parse(text)
    if fits(parsed.template, parsed.values):
        assert filled(parsed.template, parsed.values).lower().replace(" an ", " a ") == text.lower().replace(
            " an ", " a "
        )
    assert follows(parsed.template, text)
    assert "{" not in shown(parsed.template)


def test_phrases_become_slots():
    parsed = parse(SENTENCES[3])
    assert parsed.template == "{a person} with {hair} in {a upper} over {a upper_2} looks at {his} {held}."
    assert parsed.values["upper"] == "black jacket"
    assert parsed.values["upper_2"] == "white t-shirt"
    assert slots(parsed.template) == ["person", "hair", "upper", "upper_2", "his", "held"]


def test_articles_and_pronouns_follow_the_values():
    values = parse("a woman with long hair in an orange top, black trousers and boots").values
    text = filled("{a person} in {a upper} and {a lower} shows {his} {hair}. {he} walks", values)
    assert text == "A woman in an orange top and black trousers shows her long hair. She walks"
    neutral = parse("a person in a red shirt").values
    assert not fits("{a person} and {his} {upper}", neutral)
    assert not fits("{a person} with {a bag}", neutral)


def test_an_answer_that_says_something_else_does_not_follow():
    template = "{a person} in {a upper} walks"
    assert follows(template, "A man in an old grey coat walks.")
    assert not follows(template, "A man walks in a grey coat.")
    assert not follows(template, "A man in walks")


def test_looks_that_would_be_said_of_everybody_make_no_template():
    assert left_over(parse("a man in a grey somewhat worn coat").template) == ["grey"]
    assert template_of("a man in a grey somewhat worn coat") == ""
    assert template_of("nothing at all") == ""
    assert template_of("a man in a grey coat") == "{a person} in {a upper}"


def test_templates_of_a_file(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("# of people\n{a person} in {a upper}\n\n{a person}  in {a upper}\n")
    assert [template.text for template in read_templates(file)] == ["{a person} in {a upper}"]
    for wrong in ("a sentence", "{a cat} sits", "# nothing"):
        file.write_text(wrong + "\n")
        with pytest.raises(OptionError, match="templates"):
            read_templates(file)


def test_clusters_are_whole_and_never_empty():
    rng = np.random.default_rng(0)
    vectors = np.repeat(np.eye(3), 4, 0) + 0.01 * rng.standard_normal((12, 3))
    found = clustered(vectors, 3, rng)
    assert sorted(np.concatenate(found).tolist()) == list(range(12))
    assert {tuple(rows.tolist()) for rows in found} == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)}
    assert sum(map(len, clustered(np.zeros((5, 3)), 4, rng))) == 5


def test_a_crop_keeps_the_templates_it_was_captioned_with():
    texts = [f"template {number}" for number in range(20)]
    first = drawn(texts, "a.png", 2, 7)
    assert first == drawn(texts, "a.png", 2, 7)
    assert len(set(first)) == 2
    assert first != drawn(texts, "b.png", 2, 7) or first != drawn(texts, "c.png", 2, 7)
    assert set(drawn(["new", *texts], "a.png", 2, 7, dict.fromkeys(first, ""))) == set(first)
