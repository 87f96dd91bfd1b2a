"""Phantoms as DICOM files that say of themselves that they are free of noise, and by which kernel they were blurred.

A series is a file for each slice, as scanners write it. HU are stored in steps of 1/8. What the truth is made of is
kept in a private block; it holds only for the file as it was drawn: whatever is derived from it (a simulated scan, a
denoised result) keeps the block, but is no original.
"""

from __future__ import annotations

from dataclasses import replace
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

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def write_phantom(name: PhantomName, folder: Path) -> list[Path]:
    """Draw a phantom into DICOM files, one a slice. The same name gives the same bytes on the same machine."""
    phantom = name.draw()
    paths = [folder / f"{stem}.dcm" for stem in name.stems]
    for z, path in enumerate(paths):
        if not path.exists():  # named twice
            _dataset(name, phantom, z).save_as(path, enforce_file_format=True)
    return paths


def phantom_of(image: GreyImage) -> Phantom | None:
    """The slice of a phantom that an image was read as, whatever became of its pixels since; None for all others."""
    if (block := _block(image)) is None:
        return None
    phantom, z = parse_phantom(str(block[NAME].value)).draw(), int(image.source.dataset.InstanceNumber) - 1
    return replace(phantom, truth=phantom.truth[z : z + 1], positions_mm=phantom.positions_mm[z : z + 1])


def phantom_cutoff(image: GreyImage) -> float | None:
    """Cycles per mm at which the kernel of an image ends that was read as a phantom; None for all others."""
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


def _dataset(name: PhantomName, phantom: Phantom, z: int) -> Dataset:
    """Slice ``z`` as a CT image."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    from attn import __version__

    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType, dataset.SOPClassUID = ["ORIGINAL", "PRIMARY", "AXIAL"], CT_IMAGE
    whole = ("attn phantom", GENERATION, str(name))
    dataset.SOPInstanceUID = derived_uid(*whole, f"instance {z}")
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = (
        derived_uid(*whole, part) for part in ("series", "study", "frame")
    )
    for empty in (
        "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PatientSex",
        "StudyID", "PositionReferenceIndicator", "AcquisitionNumber", "Laterality", "KVP",
    ):  # fmt: skip
        setattr(dataset, empty, None)  # what the standard wants there, if only without a value
    dataset.PatientName, dataset.PatientID, dataset.PatientPosition = "Phantom^attn", str(name), "HFS"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, z + 1
    dataset.SeriesDescription = f"noise-free {name}"
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.SoftwareVersions = "attn", "phantom", __version__
    block = dataset.private_block(GROUP, CREATOR, create=True)
    block.add_new(NAME, "LO", str(name))
    block.add_new(CUTOFF, "FD", phantom.cutoff_per_mm)
    _set_geometry(dataset, phantom, z)
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, STEP_HU, "HU"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = np.rint(phantom.truth[z] / STEP_HU).astype("<i2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _set_geometry(dataset: Dataset, phantom: Phantom, z: int) -> None:
    """Where slice ``z`` lies: the middle of every slice on one axis."""
    dataset.Rows, dataset.Columns = phantom.truth.shape[1:]
    corner = [round(-(side - 1) / 2 * phantom.pixel_mm, 6) for side in (dataset.Columns, dataset.Rows)]
    dataset.ImagePositionPatient = [*corner, phantom.positions_mm[z]]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [phantom.pixel_mm, phantom.pixel_mm]
    dataset.SliceThickness = phantom.thickness_mm or None  # of a single slice the solids have no ends
