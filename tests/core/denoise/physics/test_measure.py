from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from attn.core.denoise import METHODS, evaluate
from attn.core.denoise.base import Box
from attn.core.denoise.options import DenoiseOptions
from attn.core.denoise.phantoms.phantom import Phantom
from attn.core.denoise.phantoms.single import draw_slice
from attn.core.denoise.physics.measure import Measured, Measures, wanted_measures
from attn.core.denoise.pipeline import denoise_stack
from attn.core.denoise.run import run
from attn.core.denoise.window import Window
from attn.core.io.image import GreyImage

WINDOW = Window(-1024.0, 1500.0)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    one = draw_slice("inserts", 0)
    return replace(one, truth=np.repeat(one.truth, 2, 0))


@pytest.fixture(scope="module")
def image(phantom: Phantom) -> GreyImage:
    """Two scans, with noise that is quick to make."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((2, 320, 320)), (0, 0.8, 0.8), mode="wrap")
    pixels = (phantom.truth + 10 * noise / noise.std()).astype(np.float32)
    return GreyImage(Path("x"), "npy", pixels, unit="HU", spacing_mm=(0.7, 0.7))


@pytest.fixture(scope="module")
def measures(image: GreyImage, phantom: Phantom) -> Measures:
    return Measures(image, WINDOW, phantom=phantom)


def tables(measured: Measured) -> dict[str, list[dict]]:
    return {section.name: list(section.rows()) for section in measured.sections}


def test_what_changes_nothing_loses_nothing(measures: Measures, image: GreyImage) -> None:
    told = measures.tell(image.pixels)
    assert told.metrics["contrast_kept"] == told.metrics["noise_frequency_kept"] == 1
    assert told.metrics["f50_kept"] == pytest.approx(1, abs=0.03)
    assert "removed_edge_correlation" not in told.metrics  # nothing was removed
    before, after = tables(told)["noise_power"]
    assert before | {"image": "after"} == after
    assert before["noise_sd"] == pytest.approx(10, rel=0.05)
    assert before["chosen_by"] == "truth"
    assert not told.warnings


def test_what_blur_loses(measures: Measures, image: GreyImage) -> None:
    told = measures.tell(gaussian_filter(image.pixels, (0, 1.2, 1.2)))
    shown = tables(told)
    assert list(shown) == ["noise_power", "noise_power_spectrum", "inserts", "edges"]
    assert told.metrics["f50_kept"] < 0.6
    assert told.metrics["noise_frequency_kept"] < 0.7
    assert told.metrics["removed_edge_correlation"] > 0.6
    assert 0.5 < told.metrics["contrast_kept"] < 0.95  # the small inserts lose
    assert len(shown["inserts"]) == 14
    strong = next(row for row in shown["inserts"] if row["contrast_truth_hu"] > 50)
    assert strong["cnr_after"] > 1.5 * strong["cnr_before"]
    assert strong["d_prime_after"] == pytest.approx(strong["d_prime_before"], rel=0.25)
    for row in shown["edges"]:
        assert row["f50_before_per_mm"] == pytest.approx(row["f50_truth_per_mm"], rel=0.15)
        assert not row["f50_after_per_mm"] > 0.65 * row["f50_truth_per_mm"]  # NaN where the rod is too small


def test_a_comparison_has_the_same_numbers(measures: Measures, image: GreyImage) -> None:
    smooth = gaussian_filter(image.pixels, (0, 1, 1))
    assert measures.numbers(smooth) == dict(measures.tell(smooth).metrics)


def test_a_users_own_image(image: GreyImage) -> None:
    """No truth: places are found, there are neither inserts nor edges; without a spacing everything is per pixel."""
    own = replace(image, pixels=image.pixels[:1], spacing_mm=None, unit="stored")
    told = Measures(own, WINDOW).tell(own.pixels / 2)
    shown = tables(told)
    assert list(shown) == ["noise_power", "noise_power_spectrum"]
    assert shown["noise_power"][0]["chosen_by"] == "image"
    assert shown["noise_power"][0]["mean_per_px"] == pytest.approx(0.15, rel=0.3)
    assert shown["noise_power"][1]["noise_sd"] == pytest.approx(shown["noise_power"][0]["noise_sd"] / 2)
    assert told.sections[1].heading == "noise power spectrum, px²"
    assert next(iter(shown["noise_power_spectrum"][0])) == "cycles/px"
    assert set(told.metrics) == {"noise_frequency_kept", "removed_edge_correlation"}


def test_named_regions_that_cannot_be_measured_are_a_warning(image: GreyImage) -> None:
    told = Measures(image, WINDOW, (Box(310, 310, 330, 330),)).tell(image.pixels)
    why = "not measured: the region 310,310,330,330 is not inside the image of 320 x 320 pixels"
    assert tables(told) == {"noise_power": [{"note": why}]}
    assert told.warnings == (f"noise power is {why}",)


def test_an_image_without_uniform_places_says_so_in_the_report_alone(image: GreyImage) -> None:
    small = replace(image, pixels=image.pixels[:1, :30, :30])
    told = Measures(small, WINDOW).tell(small.pixels)
    assert tables(told)["noise_power"][0]["note"].startswith("not measured: no uniform region large enough")
    assert told.warnings == ()


@pytest.mark.parametrize(
    ("options", "window", "wanted"),
    [
        (DenoiseOptions(), WINDOW, False),
        (DenoiseOptions(rois=(Box(0, 0, 16, 16),)), WINDOW, True),
        (DenoiseOptions(compare=True), WINDOW, True),
        (DenoiseOptions(physics=True), Window(3, 3), False),
    ],
)
def test_measures_are_made_where_they_are_asked_for(image, options, window, wanted) -> None:
    small = replace(image, pixels=image.pixels[:1, :40, :40])
    assert (wanted_measures(small, window, options) is not None) is wanted


@pytest.mark.parametrize(
    ("options", "measured"),
    [({}, False), ({"physics": True}, True), ({"rois": (Box(8, 8, 48, 48), Box(50, 50, 90, 90))}, True)],
)
def test_a_run_measures_where_it_is_asked_to(tmp_path, monkeypatch, options, measured) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.random.default_rng(0).normal(5, 1, (96, 96)).astype(np.float32))
    item = run(["a.npy"], "out", DenoiseOptions(method="tv", **options)).items[0]
    shown = {section.name: list(section.rows()) for section in item.sections}
    assert ("noise_power" in shown) is measured
    if measured:
        before, after = shown["noise_power"]
        assert before["noise_sd"] == pytest.approx(1, rel=0.1)
        assert after["noise_sd"] < 0.5
        assert before["chosen_by"] == ("user" if "rois" in options else "image")
        if "rois" in options:
            assert (before["regions"], before["region_px"]) == (2, 40)


def test_a_comparison_says_it_of_every_method(image: GreyImage, monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "METHODS", {name: METHODS[name] for name in ("tv", "wavelet")})
    small, options = replace(image, pixels=image.pixels[:1, 70:134, 40:104]), DenoiseOptions(method="tv")
    result = denoise_stack(small.pixels, WINDOW, options)
    found = Measures(small, WINDOW, (Box(0, 0, 32, 32),))
    table = evaluate.compare_methods(small, result, WINDOW, None, options, lambda done, total: None, found).table
    assert [0 < row["noise_frequency_kept"] < 2 for row in table.rows()] == [True, True]


@pytest.mark.slow  # draws and scans a phantom
def test_a_phantom_is_measured_by_its_truth(tmp_path) -> None:
    options = DenoiseOptions(method="tv", simulate_dose=0.5, physics=True)
    item = run(["phantom:inserts"], str(tmp_path), options).items[0]
    shown = {section.name: section for section in item.sections}
    assert {"noise_frequency_kept", "contrast_kept", "f50_kept", "removed_edge_correlation"} <= set(item.metrics)
    assert item.metrics["f50_kept"] == pytest.approx(1, abs=0.1)
    assert len(shown["inserts"].rows()) == 14
    assert next(iter(shown["noise_power"].rows()))["chosen_by"] == "truth"
    assert [row["contrast_hu"] for row in shown["edges"].rows()] == [960, -1040]
