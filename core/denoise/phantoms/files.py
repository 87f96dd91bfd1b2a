"""Phantoms as DICOM files that say of themselves that they are free of noise, and by which kernel they were blurred.

A slice is a CT image, a series one enhanced multi-frame file. HU are stored in steps of 1/8. What the truth is made
of is kept in a private block; it holds only for the file as it was drawn: whatever is derived from it (a simulated
scan, a denoised result) keeps the block, but is no original.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...io.dicom import derived_uid
from ...io.image import GreyImage
from .names import PhantomName, parse_phantom
from .phantom import Phantom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

STEP_HU = 0.125
"""So that 16 bits hold -4096 to 4095.9 HU: the noise of a low dose passes far below air."""

GENERATION = "1"
"""Part of the UIDs: to be raised when the same name is drawn otherwise."""

GROUP, CREATOR = 0x0011, "ATTN PHANTOM"
NAME, CUTOFF = 0x01, 0x02
"""Elements of the private block: the phantom's name; cycles per mm at which the kernel ends."""

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"


def write_phantom(name: PhantomName, path: Path) -> None:
    """Draw a phantom into a DICOM file. The same name gives the same bytes on the same machine."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    phantom = name.draw()
    dataset = _header(name, phantom)
    stored = np.rint(phantom.truth / STEP_HU).astype("<i2")
    dataset.Rows, dataset.Columns = stored.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = stored.tobytes()
    (_frames if name.slices else _single)(dataset, phantom)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


def phantom_of(image: GreyImage) -> Phantom | None:
    """The phantom that an image was read as, whatever became of its pixels since; None for every other image."""
    block = _block(image)
    return None if block is None else parse_phantom(str(block[NAME].value)).draw()


def phantom_cutoff(image: GreyImage) -> float | None:
    """Cycles per mm at which the kernel of an image ends that was read as a phantom; None for every other image."""
    block = _block(image)
    return None if block is None else float(block[CUTOFF].value)


def _block(image: GreyImage) -> Any:
    """The private block of a phantom's own file."""
    dataset = getattr(image.source, "dataset", None)
    if dataset is None or (dataset.get("ImageType") or [""])[0] != "ORIGINAL":
        return None
    try:
        block = dataset.private_block(GROUP, CREATOR)
        return block if NAME in block and CUTOFF in block else None
    except (KeyError, ValueError):
        return None


def _header(name: PhantomName, phantom: Phantom) -> Dataset:
    """What a slice and a series have in common: identity, equipment, the private block."""
    from pydicom.dataset import Dataset

    from attn import __version__

    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = ENHANCED_CT if name.slices else CT
    uid = ("attn phantom", GENERATION, str(name))
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = (
        derived_uid(*uid, part) for part in ("instance", "series", "study", "frame")
    )
    for empty in (
        "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PatientSex",
        "StudyID", "PositionReferenceIndicator", "KVP", "AcquisitionNumber",
    ):  # fmt: skip
        setattr(dataset, empty, None if empty == "KVP" else "")
    dataset.PatientName, dataset.PatientID = "Phantom", str(name)
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, 1
    dataset.SeriesDescription = f"noise-free {name}"
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.SoftwareVersions = "attn", "phantom", __version__
    dataset.BurnedInAnnotation = "NO"
    block = dataset.private_block(GROUP, CREATOR, create=True)
    block.add_new(NAME, "LO", str(name))
    block.add_new(CUTOFF, "FD", phantom.cutoff_per_mm)
    return dataset


def _corner(phantom: Phantom) -> float:
    """mm from the middle of the slice to the centre of its first pixel."""
    side: int = phantom.truth.shape[-1]
    return -(side - 1) / 2 * phantom.pixel_mm


def _single(dataset: Dataset, phantom: Phantom) -> None:
    """Where the one slice lies, and what its values are."""
    corner = _corner(phantom)
    dataset.ImagePositionPatient = [corner, corner, phantom.positions_mm[0]]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [phantom.pixel_mm, phantom.pixel_mm]
    dataset.SliceThickness = None  # the solids have no ends along the axis
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, STEP_HU, "HU"


def _frames(dataset: Dataset, phantom: Phantom) -> None:
    """The functional groups: shared geometry and rescale, and each frame's position."""
    dataset.NumberOfFrames = len(phantom.truth)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "NONE"]
    shared: dict[str, dict[str, Any]] = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelMeasuresSequence": {"PixelSpacing": [phantom.pixel_mm] * 2, "SliceThickness": phantom.thickness_mm},
        "PixelValueTransformationSequence": {
            "RescaleIntercept": 0, "RescaleSlope": STEP_HU, "RescaleType": "HU",
        },
        "CTImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", "AXIAL", "NONE"]},
    }  # fmt: skip
    dataset.SharedFunctionalGroupsSequence = [_item({group: [_item(of)] for group, of in shared.items()})]
    corner = _corner(phantom)
    dataset.PerFrameFunctionalGroupsSequence = [
        _item(
            {
                "PlanePositionSequence": [_item({"ImagePositionPatient": [corner, corner, at]})],
                "FrameContentSequence": [_item({"StackID": "1", "InStackPositionNumber": z + 1})],
            }
        )
        for z, at in enumerate(phantom.positions_mm)
    ]


def _item(values: dict[str, Any]) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
