"""Messages are one line, and not an endless one."""

from attn.core.errors import InputError


def test_a_name_of_thousands_of_characters_is_cut_in_a_message():
    text = str(InputError("x" * 5000 + ".png", "does not exist", "Check the name"))
    assert len(text) < 700
    assert text.endswith(".png: does not exist. Check the name")
