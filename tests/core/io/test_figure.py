"""Figures: files of the right kind, grey values as asked for, the same bytes each time, no state left behind."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from attn.core.errors import UsageError
from attn.core.report import canvas as figure_canvas
from attn.core.report.canvas import check_figure_path
from attn.core.report.figure import Panel, before_after, comparison, curve, panels
from attn.core.report.maps import ValueMap, sigma_maps, value_maps

RAMP = np.linspace(-1000, 1000, 64 * 64).reshape(64, 64)
MAPS = np.stack([np.full((64, 64), 2.0), np.linspace(1, 3, 64 * 64).reshape(64, 64), np.full((64, 64), 0.02)])


@pytest.fixture(autouse=True)
def small_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 128 × 128 is then drawn one to one, and fast."""
    monkeypatch.setattr(figure_canvas, "PANEL", 128)


DRAW: dict[str, Callable[[Path], None]] = {
    "before_after": lambda path: before_after(RAMP, RAMP * 0.9, path, reference=RAMP, title="a_$b$.dcm"),
    "sigma_maps": lambda path: sigma_maps([MAPS], path, title="maps"),
    "value_maps": lambda path: value_maps([[ValueMap(m, "a", "HU") for m in MAPS], [ValueMap(RAMP, "b")]], path),
    "comparison": lambda path: comparison({"noisy": RAMP, "tv": RAMP}, path, captions={"tv": "38 dB"}, reference=RAMP),
    "curve": lambda path: curve([1, 2, 3], {"a": [1, 2, 3], "b": [3, float("nan"), 1]}, path, logx=True, logy=True),
}


def pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def contains(picture: NDArray[Any], panel: NDArray[Any]) -> bool:
    """Whether grey ``panel`` [h, w] stands in ``picture`` [H, W, 3], to two levels: colour maps cut, not round."""
    grey = picture[..., 0].astype(int)
    height, width = panel.shape
    corner = np.abs(grey[: grey.shape[0] - height + 1, : grey.shape[1] - width + 1] - panel[0, 0]) <= 2
    for y, x in zip(*np.nonzero(corner), strict=True):
        part = grey[y : y + height, x : x + width]
        if abs(part[-1, -1] - panel[-1, -1]) <= 2 and (np.abs(part - panel) <= 2).all():
            return True
    return False


@pytest.mark.parametrize("name", DRAW)
def test_png_and_svg_are_the_same_each_time(name: str, tmp_path: Path) -> None:
    for suffix in (".png", ".svg"):
        first, second = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"
        DRAW[name](first)
        DRAW[name](second)
        assert first.read_bytes() == second.read_bytes()
    assert pixels(tmp_path / "1.png").std() > 5
    svg = (tmp_path / "1.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml")
    assert "<dc:date>" not in svg
    assert len(list(tmp_path.iterdir())) == 4  # no temporary file stays


def test_grey_values_lie_within_the_window_pixel_for_pixel(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(-1000, 1000, (128, 128))
    before_after(image, image / 2, tmp_path / "a.png", window=(-160, 240))
    picture = pixels(tmp_path / "a.png")
    for shown in (image, image / 2):
        expected = np.clip((shown + 160) / 400, 0, 1) * 255
        assert contains(picture, np.round(expected))


def test_low_is_white_where_the_file_says_so(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(0, 100, (128, 128))
    expected = np.round(255 - image / 100 * 255)
    before_after(image, image, tmp_path / "a.png", window=(0, 100), low_is_white=True)
    comparison({"noisy": image}, tmp_path / "b.png", window=(0, 100), low_is_white=True)
    assert all(contains(pixels(tmp_path / name), expected) for name in ("a.png", "b.png"))


@pytest.mark.parametrize(("aspect", "shape"), [(2.0, (32, 64)), (0.5, (64, 32)), (3.0, (20, 60))])
def test_pixels_have_their_aspect(tmp_path: Path, aspect: float, shape: tuple[int, int]) -> None:
    black = np.zeros(shape)
    before_after(black, black, tmp_path / "a.png", window=(0, 1), aspect=aspect)
    comparison({"noisy": black}, tmp_path / "b.png", window=(0, 1), aspect=aspect)
    sigma_maps([np.zeros((3, *shape))], tmp_path / "c.png", aspect=aspect)
    side = 2 * 64 if shape != (20, 60) else 2 * 60  # as wide as high: the object is a square
    square = np.zeros((side, side))
    assert contains(pixels(tmp_path / "a.png"), square)
    assert contains(pixels(tmp_path / "b.png"), square)
    colours = pixels(tmp_path / "c.png").reshape(-1, 3)
    assert (np.abs(colours.astype(int) - (32, 144, 140)).max(axis=1) < 5).sum() >= 3 * side**2  # the middle of viridis


def test_difference_is_before_minus_after(tmp_path: Path) -> None:
    before = np.zeros((128, 128))
    after = before.copy()
    after[:64] = 10.0  # before − after is negative above, zero below
    before_after(before, after, tmp_path / "a.png", window=(0, 100))
    picture = pixels(tmp_path / "a.png")
    half = np.concatenate([np.zeros((64, 128)), np.full((64, 128), 127)])
    assert contains(picture, half)
    assert not contains(picture, 255 - half)


def test_what_was_removed_is_measured_beside_padding(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 8, (128, 128))
    valid = np.zeros(noise.shape, bool)
    valid[:64] = True
    noise[~valid] = 0
    before_after(noise, 0 * noise, tmp_path / "a.svg", valid=valid)
    assert f"SD {noise[valid].std():.3g} HU" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_middle_of_a_stack_is_drawn(tmp_path: Path) -> None:
    stack = np.stack([RAMP[::-1], RAMP, RAMP[::-1]])
    before_after(stack, stack, tmp_path / "stack.png")
    before_after(RAMP, RAMP, tmp_path / "plane.png")
    assert (tmp_path / "stack.png").read_bytes() == (tmp_path / "plane.png").read_bytes()


def test_constant_map_looks_constant(tmp_path: Path) -> None:
    constant = np.full((128, 128), 2.0)
    rounded = constant + 1e-6 * np.random.default_rng(0).standard_normal((128, 128))
    sigma_maps([np.stack([constant, rounded, constant])], tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    middle = picture[:, picture.shape[1] // 3 : picture.shape[1] * 2 // 3]
    level = np.bincount(middle[..., 0].ravel())[:255].argmax()  # the commonest that is not paper white
    assert contains(middle, np.full((128, 128), level))


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (700, 3), (64, 48), (1500, 1200)], ids=str)
def test_any_shape_fits(shape: tuple[int, int], tmp_path: Path) -> None:
    image = np.random.default_rng(0).standard_normal(shape)
    before_after(image, image, tmp_path / "a.png")
    height, width, _ = pixels(tmp_path / "a.png").shape
    assert width < 2500
    assert height < 900


@pytest.mark.parametrize("value", [0.0, -1024.0, float("nan")])
def test_constant_images_are_drawn_without_a_warning(value: float, tmp_path: Path) -> None:
    image = np.full((16, 16), value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before_after(image, image, tmp_path / "a.png", title="走査.dcm")
        sigma_maps([np.zeros((3, 16, 16))], tmp_path / "b.png")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 9])
def test_comparison_shows_every_image(count: int, tmp_path: Path) -> None:
    images = {f"m{i}": np.full((128, 128), float(i)) for i in range(count)}
    comparison(images, tmp_path / "a.png", window=(-1, count + 1))
    picture = pixels(tmp_path / "a.png")
    for i in range(count):
        assert contains(picture, np.full((128, 128), (i + 1) / (count + 2) * 255).round())


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        curve([1], {"a": [1]}, tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="differ in shape"):
        before_after(RAMP, RAMP[:-1], tmp_path / "a.png")
    with pytest.raises(ValueError, match="differ in shape"):
        comparison({"a": RAMP}, tmp_path / "a.png", reference=RAMP[:-1])
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        sigma_maps([RAMP], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        sigma_maps([], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"one shape \[H, W\]"):
        value_maps([[ValueMap(RAMP, "a"), ValueMap(RAMP[1:], "b")]], tmp_path / "a.png")
    with pytest.raises(ValueError, match="at least one"):
        comparison({}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="3 values"):
        curve([1, 2, 3], {"a": [1, 2]}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="shape"):
        before_after(np.zeros((0, 4)), np.zeros((0, 4)), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_no_global_state_and_no_user_style(tmp_path: Path) -> None:
    curve([1, 2], {"a": [1, 2]}, tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 30.0, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        curve([1, 2], {"a": [1, 2]}, tmp_path / "b.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_pyplot_is_never_imported_and_matplotlib_only_on_use(tmp_path: Path) -> None:
    code = (
        "import sys, attn.core.report.figure as f; assert 'matplotlib' not in sys.modules; "
        f"f.curve([1, 2], {{'a': [1, 2]}}, {str(tmp_path / 'a.png')!r}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_panels_share_one_legend_and_one_colour_a_name(tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    left = Panel(
        {"hip": ([1, 2], [1, 4]), "dense": ([1, 2], [1, 9])}, {"hip": ([1, 2], [1, 4.1])}, logx=True, logy=True
    )
    panels([left, Panel({"hip": ([1, 2], [0.1, 0.2])}, xlabel="keys", ylabel="recall", title="second")], path)
    text = path.read_text()
    assert text.count("<!-- hip -->") == 1
    assert text.count("<!-- dense -->") == 1
    assert "<!-- recall -->" in text
    assert text.count("stroke: #1f77b4") >= 3  # hip: its curve, its dashed fit, its curve in the second panel


def test_a_figure_is_refused_before_the_work() -> None:
    with pytest.raises(UsageError, match=r"figures end in \.png or \.svg"):
        check_figure_path("plot.pdf")
