"""The filter language: what it accepts, what it means, what it refuses and how."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn.core.errors import UsageError
from attn.core.retrieve.store.where import columns, parse, selects

ITEM = {"width": 800, "lang": "en", "ok": True, "none": None, "two words": "x"}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("width > 700 AND lang='en'", True),
        ("width>700 and lang = 'de' or ok = true", True),
        ("width > 700 AND (lang = 'de' OR ok = FALSE)", False),
        ("NOT NOT width = 800", True),
        ("NOT (width = 800 AND lang = 'en')", False),
        ("NOT (width = 800 OR lang = 'de')", False),
        ("NOT width BETWEEN 1 AND 799", True),
        ("-1 < width", True),
        ("800 = width", True),
        ("700 > width", False),
        ("width == 8e2", True),
        ("width = .8e3", True),
        ("\"two words\" = 'x'", True),
        ("`two words` LIKE '_'", True),
        ("lang LIKE 'E%'", False),
        ("lang LIKE '%'", True),
        ("lang LIKE 'e\\n'", True),
        ("none = 1", False),
        ("NOT none = 1", False),
        ("none IS NULL AND missing IS NULL", True),
        ("lang = 1", False),
        ("NOT lang = 1", False),
        ("ok = 1", False),
        ("width = TRUE", False),
        ("lang IN ('en','de')", True),
        ("lang NOT IN ('en')", False),
        ("missing NOT IN ('en')", False),
        ("id LIKE 'a/%'", True),
    ],
)
def test_meaning(text, answer):
    assert selects(parse(text))("a/1", ITEM) is answer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a name or a value before the end"),
        ("width", "expected a comparison after width"),
        ("width >", "before the end"),
        ("width > 3 AND", "before the end"),
        ("(width > 3", r"expected \) before the end"),
        ("width > 3)", r"'\)' is not expected"),
        ("width > 3 lang = 'x'", "'lang' is not expected"),
        ("width = NULL", "write IS NULL"),
        ("1 = 1", "needs a column"),
        ("width IN ()", "expected a name or a value"),
        ("width IN (1, 'a')", "all text, all numbers"),
        ("width IN (lang)", "text goes in single quotes"),
        ("lang LIKE 3", "pattern in quotes"),
        ("lang = 'en", 'cannot read "\'en"'),
        ("lang = 'x'; DROP TABLE items", "cannot read '; DROP TABLE items'"),
        ("lang = 'x' -- comment", "cannot read '-- comment'"),
        ("load_extension('x')", "expected a comparison after load_extension"),
        ("width = 3abc", "cannot read"),
        ("width = 1e999", "too large"),
        ("width = 9223372036854775808", "too large"),
        pytest.param("width = " + "9" * 5000, "a number of 5000 digits is too large", id="digits"),
        ("(" * 60 + "width = 1" + ")" * 60, "nested too deeply"),
        ("NOT " * 5000 + "width = 1", "nested too deeply"),
        ("SELECT 1", "expected a comparison after SELECT"),
    ],
)
def test_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_names_are_checked_where_there_are_any():
    parse("id = 'x' AND anything = 1")
    with pytest.raises(UsageError, match=r"no metadata called 'lagn'\. Did you mean lang\? Known: id, lang, width"):
        parse("lagn = 'x'", {"width", "lang"})
    assert columns(parse("a = 1 OR NOT (b IN (2) AND c IS NULL) OR d LIKE 'x' OR e < f")) == set("abcdef")


LEAVES = st.sampled_from(
    ["width = 800", "width < 3", "none = 1", "lang IN ('de')", "lang LIKE 'e%'", "none IS NULL", "lang > 1"]
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) AND ({two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) OR ({two[1]})"),
        inner.map(lambda one: f"NOT ({one})"),
    ),
    max_leaves=6,
)


@given(text=TREES)
def test_negation_agrees_with_sql(text):
    """Three-valued logic as sqlite has it, on values whose kinds agree with their columns."""
    import sqlite3

    text = text.replace("lang > 1", "lang > 'a'")  # sqlite orders text after numbers where we say unknown
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE t (width, lang, none)")
    database.execute("INSERT INTO t VALUES (800, 'en', NULL)")
    want = database.execute(f"SELECT count(*) FROM t WHERE {text}").fetchone()[0] == 1
    database.close()
    assert selects(parse(text))("a", ITEM) is want


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused_as_usage(text):
    with contextlib.suppress(UsageError):  # any other exception fails
        assert columns(parse(text))
