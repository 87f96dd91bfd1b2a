"""What `attn denoise` writes beside its report: the image, the simulated input, maps, pictures, the filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attn

from ..batch.task import Task
from ..compare import Comparison
from ..io import Derivation, GreyImage, write_grey
from ..text import printable
from .maps import write_maps
from .naming import side_path
from .options import DenoiseOptions
from .phantoms.files import phantom_cutoff
from .pipeline import Denoised, Stack
from .window import Window, picture_window


def describe(options: DenoiseOptions, result: Denoised, window: Window, unit: str) -> str:
    """One line that says how the image was made, for the file itself."""
    parts = [f"attn {attn.__version__} denoise", f"method {options.method}", f"window {window} {unit}"]
    if result.filters:
        first = result.filters[0]
        parts += [f"{key} {value:.4g}" for key, value in first.settings.items()]
    if drawn := [one.neighbours for one in result.drawn if one is not None]:
        parts.append(f"neighbours {sum(drawn) / len(drawn):.4g}")
    if options.strength != 1.0:
        parts.append(f"strength {options.strength:g}")
    parts += [f"region {r.x0},{r.y0},{r.x1},{r.y1} strength {r.strength:g}" for r in options.regions]
    return ", ".join(parts) + ". Not for diagnosis."


def save_filter(fitted: Any, path: Path, window: Window) -> None:
    """Keep a fitted filter of a method that can (the options were checked), and the window it was fitted in."""
    fitted.save(path, window=f"{float(window.low)!r} {float(window.high)!r}")


def write_outputs(
    task: Task,
    image: GreyImage,
    noisy: GreyImage,
    result: Denoised,
    window: Window,
    options: DenoiseOptions,
    request: str,
    reference: Stack | None,
    compared: Comparison | None,
    warnings: list[str],
) -> dict[str, str]:
    """Write what the options ask for; the main output comes last, so that its presence means "complete".

    ``request`` is the ``identity`` of the options: a derived series is named after it. ``warnings`` is told what the
    file could not hold.
    """
    files: dict[str, str] = {}
    output = task.output
    if output is None:
        return files
    if options.simulate_dose is not None:
        dose, seed = options.simulate_dose, options.fit.seed
        text = f"attn {attn.__version__}: simulated at {dose:g} of the dose, seed {seed}. Not for diagnosis."
        path = side_path(output, "lowdose")
        derivation = Derivation(text, "simulated low dose", _series_uid(image, f"low dose {dose!r} {seed}"))
        warnings += [f"{path.name}: {note}" for note in write_grey(image, noisy.pixels, path, derivation)]
        files["simulated"] = str(path)
    if phantom_cutoff(image) is not None:  # it was drawn for this run: without it nobody could look at the truth
        files["truth"] = str(side_path(output, "truth"))
        write_grey(image, image.pixels, files["truth"])
    shown = picture_window(options.window, noisy, window, options.display)
    if options.figure and window.width > 0:
        files["figure"] = str(_write_figure(task, noisy, result, shown, reference))
    if compared is not None and len(compared.pictures) > 1:
        path = side_path(output, "compare", ".png", whole=task.whole)
        looks = {"unit": noisy.unit, "aspect": noisy.aspect, "low_is_white": noisy.low_is_white}
        compared.draw(path, window=(shown.low, shown.high), **looks)
        files["compare"] = str(path)
    if options.maps and result.filters:
        files |= write_maps(task, noisy, result, window, options)
    if options.save_filter is not None and result.filters and (task.payload is None or task.payload.fitted is None):
        save_filter(result.filters[0], options.save_filter, window)
        files["filter"] = str(options.save_filter)
    text = describe(options, result, window, noisy.unit)
    warnings += write_grey(image, result.pixels, output, Derivation(text, "denoised", _series_uid(image, request)))
    return files


def _series_uid(image: GreyImage, entropy: str) -> str:
    """The new SeriesInstanceUID: equal for all slices of one series and call, without anybody having to agree on it."""
    if image.kind != "dicom":
        return ""
    from ..io.dicom import derived_uid

    return derived_uid(str(image.series.get("uid", "")), entropy)


def _write_figure(task: Task, noisy: GreyImage, result: Denoised, window: Window, reference: Stack | None) -> Path:
    from ..report.figure import before_after

    assert task.output is not None
    middle, path = len(noisy.pixels) // 2, side_path(task.output, "figure", ".png", whole=task.whole)
    before_after(
        noisy.pixels[middle],
        result.pixels[middle],
        path,
        reference=None if reference is None else reference[middle],
        valid=None if noisy.valid is None else noisy.valid[middle],
        window=(window.low, window.high),
        title=printable(noisy.path.name),
        unit=noisy.unit,
        aspect=noisy.aspect,
        low_is_white=noisy.low_is_white,
    )
    return path
