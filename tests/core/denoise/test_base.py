import pytest

from attn.core.denoise.base import Box, Region, parse_box, parse_region


def test_boxes_and_regions() -> None:
    assert parse_box("1,2,17,40") == Box(1, 2, 17, 40)
    assert str(Box(1, 2, 17, 40)) == "1,2,17,40"
    assert parse_region("1,2,3,4=0.5") == Region(1, 2, 3, 4, 0.5)


@pytest.mark.parametrize(
    "text", ["", "a", "1,2,3", "1,2,17,18,19", "-1,0,20,20", "0,0,15,20", "0,0,20,15", "20,20,0,0", "0,0,20,20=1"]
)
def test_what_is_no_box(text: str) -> None:
    with pytest.raises(ValueError, match="is no uniform region"):
        parse_box(text)
