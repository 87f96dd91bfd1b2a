"""Text of others: nothing in it reaches a terminal or a spreadsheet as an instruction."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn.core.errors import InputError, decoding
from attn.core.text import csv_cell, csv_text, library_words, one_line, printable, reason_of


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_that_steers_a_terminal_is_left(text):
    assert printable(text).isprintable()
    printable(text).encode()  # no lone surrogates
    assert one_line(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe [red] 1.dcm", "Größe [red] 1.dcm"),
        ("\x1b[31mred", "␛[31mred"),
        ("a\r\nb\x7f", "a␍␊b␡"),
        ("caf\udce9", r"caf\xe9"),
        ("\u202efdp.exe", r"\u202efdp.exe"),
        ("\x9b2J", r"\x9b2J"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


def test_line_ends_stay_where_lines_are_wanted():
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb␛"


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-x", "@sum", "\t=1", "\r=1", " =1", "-", "=HYPERLINK(1)"])
def test_formulas_are_text(text):
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize("value", ["a", "-5", "+1.5e3", "", 5, -5.0, None, "a=b", "1-2"])
def test_what_is_no_formula_stays(value):
    assert csv_cell(value) == value


def test_csv_text_is_read_back():
    text = csv_text([["a", "b"], ["=x", -1.5], [None, 'q"\r\n']])
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["a", "b"], ["'=x", "-1.5"], ["", 'q"\r\n']]


def test_words_of_libraries_for_their_own_developers_are_left_out():
    odd = "cannot identify image file <_io.BufferedReader name='a [b].heic'>"
    assert library_words(odd) == "cannot identify image file"
    advice = "Generic Error. Please build `libjxl` from source. Check `stderr` for any internal error messages."
    assert library_words(advice) == "Generic Error."
    assert library_words("a < b and b > c") == "a < b and b > c"
    with pytest.raises(InputError, match=r"cannot be read as JPEG XL \(Generic Error\.\)"), decoding("a", "JPEG XL"):
        raise ValueError(advice)


def test_a_reason_is_there_even_where_a_library_gives_none():
    assert reason_of(ValueError()) == "ValueError"
    assert reason_of(OSError("first.\nsecond")) == "first"
