"""What makes two runs the same request: the options that change pixels, and nothing else.

A derived DICOM series is named after it, so that a run that is resumed with another report, other pictures, more
workers or other spellings of its paths goes on in the same series. The release of attn is no part of it: a study that
is half done when attn is updated stays one series. Each file names the release that made it (DerivationDescription,
SoftwareVersions), and a resumed run says where it differs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import attn

from ..batch.task import Task
from ..io.dicom import derived_uid
from ..io.kinds import open_regular, sniff
from ..io.pixels import captured
from ..report.model import Item
from . import METHODS
from .naming import MAPS, side_path
from .options import DenoiseOptions
from .pipeline import method_device, method_dtype
from .window import parse_window

BESIDE = ("maps", "figure", "display", "compare", "reference", "save_filter", "rois", "physics")
"""Options that change what is written beside the result. Every other one, also one to come, is taken to change it."""


def identity(options: DenoiseOptions) -> str:
    """One text per request; the same for all spellings of it."""
    request = {name: value for name, value in asdict(options).items() if name not in BESIDE}
    del request["volume"]  # where there is a volume, its slices are named besides
    fit = request.pop("fit")
    seed = fit["seed"]
    if (read := METHODS[options.method].options) is not None:
        fit = {name: value for name, value in fit.items() if name in read}
    request |= {
        "window": parse_window(options.window),
        "dtype": str(method_dtype(options.method, options.dtype)),
        "device": method_device(options.method, options.device).type,
        "strength": float(options.strength),
        "simulate_dose": options.simulate_dose and (float(options.simulate_dose), seed),
    }
    if options.filter is None:
        request["fit"] = sorted(fit.items())
    else:  # nothing is fitted: what is in the file counts, not its name
        with open_regular(options.filter) as file:
            request["filter"] = hashlib.sha256(file.read()).hexdigest()
        del request["fit_on"]
    return repr(sorted(request.items()))


def resumed(
    items: Sequence[Item], tasks: Sequence[Task], options: DenoiseOptions, request_of: Callable[[str], str]
) -> tuple[Item, ...]:
    """The items of a batch, the skipped ones with what their results differ in from what is asked for now.

    ``request_of`` gives the ``identity`` for the name of a task, which depends on the volume that it belongs to.

    Only DICOM files say how they were made. Of other kinds a result that exists is taken for what was asked for.
    """
    of = {task.name: task for task in tasks}
    kept = any(item.status == "ok" for item in items)
    noted = []
    for item in items:
        notes: list[str] = []
        if item.status == "skipped" and (task := of.get(item.input)) is not None and task.output is not None:
            notes += _made_otherwise(task.source, task.output, request_of(task.name))
            places = [side_path(task.output, *kind, whole=task.whole) for kind in MAPS]
            if options.maps and not any(place.exists() for place in places):
                notes.append("skipped: it has no maps; --overwrite makes them")
            if options.compare:
                notes.append("skipped: not in the comparison; --overwrite compares")
            if options.reference is not None:
                notes.append("skipped: not compared with the reference; --overwrite compares")
            if options.rois:
                notes.append("skipped: its noise is not measured; --overwrite measures")
            if options.save_filter is not None and not kept:
                notes.append(f"skipped: nothing was fitted, so {options.save_filter} was not written; --overwrite fits")
        noted.append(replace(item, warnings=(*item.warnings, *notes)))
    return tuple(noted)


def _made_otherwise(source: Path, output: Path, request: str) -> list[str]:
    import pydicom

    def header(path: Path) -> tuple[str, str]:
        tags = ["SeriesInstanceUID", "DerivationDescription"]
        data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
        return str(data.get("SeriesInstanceUID") or ""), str(data.get("DerivationDescription") or "")

    try:
        with captured([]):
            if sniff(output) != "dicom" or sniff(source) != "dicom":
                return []
            (origin, _), (series, description) = header(source), header(output)
    except Exception:  # pydicom raises whatever the damage causes; who reads the file is told
        return ["the result that exists cannot be read; --overwrite makes it again"]
    if series != derived_uid(origin, request):
        return [
            "the result that exists was made with other options, or other slices beside it; --overwrite makes it again"
        ]
    made = re.match(r"attn (\S+) denoise", description)
    if made and made[1] != attn.__version__:
        return [f"the result that exists was made by attn {made[1]}; --overwrite makes it again"]
    return []
