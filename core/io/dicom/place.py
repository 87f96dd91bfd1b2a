"""Where the slices of a DICOM file lie, and what its header says of how they were acquired."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..place import SlicePlace, place_of

MARKS = (
    "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "DiffusionBValue", "NominalPercentageOfCardiacPhase",
    "TriggerTime", "KVP", "ConvolutionKernel", "ImageType", "AcquisitionNumber", "AcquisitionDateTime",
    "AcquisitionTime",
)  # fmt: skip
"""Elements that tell acquisitions in one place apart, the surest first."""
FRAME_MARKS = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    ("CTReconstructionSequence", "ConvolutionKernel"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("FrameContentSequence", "StackID"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("FrameContentSequence", "FrameAcquisitionDateTime"),
)
"""The same of the frames of a multi-frame file, with the functional group that holds them."""


def numbers(dataset: Any, keyword: str, count: int) -> list[float] | None:
    """``count`` finite numbers of an element, or None."""
    try:
        value = dataset.get(keyword)
        values = [float(number) for number in (value if count > 1 else [value])]
    except Exception:  # pydicom parses on access and raises whatever the damage causes
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def text_of(dataset: Any, keyword: str) -> str:
    """An element as text, several values joined by a backslash; empty where it is missing or damaged."""
    try:
        value = dataset.get(keyword)
        if value is None:
            return ""
        if isinstance(value, str) or not isinstance(value, Sequence):
            return str(value)
        return "\\".join(str(part) for part in value)
    except Exception:  # as above
        return ""


def functional_groups(dataset: Any, frames: int, name: str) -> list[Any]:
    """For each frame the item of functional group ``name`` (per-frame before shared), or None."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    common = (shared[0].get(name) or [None])[0] if len(shared) else None
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    return [((each[z].get(name) or [common])[0] if z < len(each) else common) for z in range(frames)]


def pixel_spacing(dataset: Any) -> tuple[float, float] | None:
    """Row and column spacing in mm: PixelSpacing, at top level or in the first frame's group, else at the detector."""
    group = functional_groups(dataset, 1, "PixelMeasuresSequence")[0] or {}
    for value in (dataset.get("PixelSpacing"), group.get("PixelSpacing"), dataset.get("ImagerPixelSpacing")):
        try:
            row, column = (float(number) for number in value or ())
        except (TypeError, ValueError):
            continue
        if 0 < row < math.inf and 0 < column < math.inf:
            return row, column
    return None


def slice_place(dataset: Any) -> SlicePlace | None:
    """Where the slice of a file with one frame lies; None where an element is missing or damaged."""
    return _place(dataset, dataset, dataset, _frame(dataset), tuple((word, text_of(dataset, word)) for word in MARKS))


def frame_places(dataset: Any, frames: int) -> tuple[SlicePlace | None, ...]:
    """Where every frame lies, from the functional groups; None where one does not say, empty where all do not."""
    said = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if not said and frames == 1:
        return (slice_place(dataset),)
    if said != frames:  # a header may promise any number of frames
        return ()
    names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    position, orientation, measures = (functional_groups(dataset, frames, name) for name in names)
    groups = {name: functional_groups(dataset, frames, name) for name, _ in FRAME_MARKS}
    marks = [tuple((word, text_of(groups[name][z] or {}, word)) for name, word in FRAME_MARKS) for z in range(frames)]
    frame = _frame(dataset)
    return tuple(
        _place(position[z] or {}, orientation[z] or {}, measures[z] or {}, frame, marks[z]) for z in range(frames)
    )


def _frame(dataset: Any) -> str:
    return text_of(dataset, "FrameOfReferenceUID")


def _place(
    position: Any, orientation: Any, measures: Any, frame: str, marks: tuple[tuple[str, str], ...]
) -> SlicePlace | None:
    origin = numbers(position, "ImagePositionPatient", 3)
    directions = numbers(orientation, "ImageOrientationPatient", 6)
    spacing = numbers(measures, "PixelSpacing", 2)
    if not (origin and directions and spacing):
        return None
    return place_of(origin, directions[:3], directions[3:], (spacing[0], spacing[1]), frame, marks)
