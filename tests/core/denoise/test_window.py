"""Windows: what they map, what they leave alone, what they refuse."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn.core.denoise.window import PRESETS, Window, choose_window, outside, parse_window, picture_window
from attn.core.errors import InputError, UsageError
from attn.core.io import read_grey
from attn.core.io.image import GreyImage


def image(pixels, **kwargs):
    return GreyImage(Path("x"), "npy", np.asarray(pixels, np.float32).reshape(1, 1, -1), **kwargs)


def test_pictures_show_the_noise():
    rng = np.random.default_rng(0)
    tissue = rng.normal(40, 20, 500)
    body = image([*tissue, *np.full(500, -1000.0), 3000], unit="HU")
    whole = choose_window("auto", body)
    assert picture_window("auto", body, whole) == Window(-160, 240)
    asked = choose_window("lung", body)
    assert picture_window("lung", body, asked) == asked == Window(-1350, 150)
    lung = image(rng.normal(-850, 50, 500), unit="HU")  # nothing of it is soft tissue
    assert picture_window("auto", body, whole, "brain") == Window(0, 80)
    shown = picture_window("auto", lung, choose_window("auto", lung))
    assert -1010 < shown.low < -950
    assert -750 < shown.high < -690
    signal = image([*rng.normal(500, 10, 900), *np.zeros(300), 60000])  # air around, one bright pixel
    shown = picture_window("auto", signal, choose_window("auto", signal))
    assert 460 < shown.low < shown.high < 540
    flat = image(np.full(9, 7.0))
    assert picture_window("auto", flat, choose_window("auto", flat)).width == 0


def test_how_viewers_show_the_pixels():
    from pydicom.dataset import Dataset

    header = Dataset()
    header.PhotometricInterpretation, header.PixelAspectRatio = "MONOCHROME1", ["3", "2"]
    source = SimpleNamespace(dataset=header)
    assert image([1.0], source=source).low_is_white
    assert image([1.0], source=source).aspect == 1.5
    assert image([1.0], source=source, spacing_mm=(4.0, 2.0)).aspect == 2
    assert image([1.0], source={"photometric": "miniswhite"}).low_is_white
    plain = image([1.0], source={"photometric": "minisblack"}, spacing_mm=(1e9, 1.0))
    assert (plain.low_is_white, plain.aspect) == (False, 1)


@pytest.mark.parametrize("text", ["lunge", "1", "1,2,3", "a,b", "40,0", "40,-5", "nan,3", "", "40,inf"])
def test_what_is_no_window(text):
    with pytest.raises(UsageError, match="window: "):
        parse_window(text)


def test_near_miss_is_named():
    with pytest.raises(UsageError, match="Did you mean lung"):
        parse_window("lungs")


def test_presets_and_pairs():
    assert parse_window("auto") is None
    assert parse_window("brain") == PRESETS["brain"]
    assert parse_window("-600,1500") == (-600.0, 1500.0)


def test_auto_is_the_range_of_valid_pixels():
    valid = np.array([[[False, True, True, True]]])
    assert choose_window("auto", image([-2000, 1, 5, 9], valid=valid)) == Window(1, 9)


def test_auto_cuts_ct_to_what_a_scanner_measures_and_nothing_else():
    assert choose_window("auto", image([-2048, 0, 4600], unit="HU")) == Window(-1024, 3071)
    assert choose_window("auto", image([-2048, 0, 4600])) == Window(-2048, 4600)


def test_preset_needs_hounsfield_units():
    with pytest.raises(InputError, match="has no HU"):
        choose_window("lung", image([0, 1]))
    assert choose_window("lung", image([0, 1], unit="HU")) == Window(-1350, 150)


@given(st.floats(-3000, 3000), st.floats(1, 5000), st.lists(st.floats(-5000, 5000, width=32), min_size=1, max_size=20))
def test_inside_values_survive_the_round_trip(low, width, values):
    window = Window(low, low + width)
    pixels = np.array(values, np.float32)
    seen = window.normalise(pixels)
    assert ((seen >= 0) & (seen <= 1)).all()
    inside = window.inside(pixels)
    np.testing.assert_allclose(window.restore(seen)[inside], pixels[inside], atol=2e-3)


def test_a_window_in_another_unit_than_the_image_is_told():
    values = image(np.linspace(0, 1, 200))
    (text,) = outside(Window(-1350, -150), values)
    assert text == "only 0.0% of its pixels lie in the window -1350..-150 and are filtered; its values are 0 ... 1"
    assert outside(Window(0, 1), values) == []
    assert outside(Window(0, 0), values) == []  # a constant image has a word of its own


def test_a_window_that_one_pixel_makes_too_wide_is_told():
    values = np.random.default_rng(0).normal(100, 20, 500)
    hot = image([*values, 1e9])
    (text,) = outside(choose_window("auto", hot), hot)
    assert "of its values lie in" in text
    assert outside(Window(0, 200), hot) == []
    bright = image([*values, 1e6])
    assert outside(choose_window("auto", bright), bright) == []
    sparse = image([*np.zeros(500), 1e9])  # nothing is lost of one value
    assert outside(choose_window("auto", sparse), sparse) == []


@pytest.mark.parametrize(("text", "pixels"), [("auto", [-3e38, 0, 3e38]), ("1e300,1e300", [0, 1])])
def test_a_window_that_numbers_do_not_reach_is_refused(text, pixels):
    with pytest.raises(InputError, match="type float32 do not reach so far"):
        choose_window(text, image(pixels))


def test_the_user_may_say_that_values_are_hounsfield_units(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[-2048, 0, 4600]], np.int16))
    plain, said = read_grey(tmp_path / "a.npy"), read_grey(tmp_path / "a.npy", unit="hu")
    assert (plain.unit, said.unit) == ("stored", "HU")
    assert choose_window("auto", said) == Window(-1024, 3071)
    assert choose_window("lung", said) == Window(-1350, 150)
    with pytest.raises(InputError, match="--unit hu"):
        choose_window("lung", plain)
    with pytest.raises(UsageError, match="unit: 'mm'"):
        read_grey(tmp_path / "a.npy", unit="mm")
