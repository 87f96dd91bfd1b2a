"""What we write, judged by programs that share no code with us: DCMTK and dicom3tools."""

import collections
import shutil
import subprocess

import numpy as np
import pytest

from attn.core.io import Derivation, read_grey, write_grey
from attn.core.io.dicom import derived_uid

# The source's own acquisition attributes: the standard wants them in an ORIGINAL Enhanced MR image and, dciodvfy says,
# nowhere else. We keep them: how an image was acquired stays true of the image derived from it.
KEPT_ON_PURPOSE = "Attribute present when condition unsatisfied"


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture
def written(good_dicom, dicom_dir, tmp_path):
    image = read_grey(dicom_dir / good_dicom)
    derivation = Derivation("attn filter2noise", "denoised", derived_uid(image.series["uid"], "denoised"))
    write_grey(image, image.pixels + 7.3, tmp_path / "out.dcm", derivation)
    return dicom_dir / good_dicom, tmp_path / "out.dcm"


def errors(path):
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, errors="replace", check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy said nothing at all"
    return collections.Counter(line for line in lines if line.startswith("Error") and KEPT_ON_PURPOSE not in line)


@needs("dciodvfy")
def test_dciodvfy_finds_no_new_errors(written):
    source, result = written
    assert errors(result) - errors(source) == collections.Counter()


@needs("dcmdump")
def test_dcmdump_reads_every_element(written):
    done = subprocess.run(
        ["dcmdump", "+E", str(written[1])], capture_output=True, text=True, errors="replace", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(7fe0,0010)" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]


@needs("dcm2pnm")
def test_dcm2pnm_sees_the_values_we_wrote(dicom_dir, tmp_path):
    from PIL import Image

    image = read_grey(dicom_dir / "ct/ge_rhapsode_128_small.dcm")
    write_grey(image, image.pixels[:, ::-1] + 40, tmp_path / "out.dcm", Derivation("x", "y", "2.25.1"))
    # DICOM's linear window (PS3.3 C.11.2.1.2.1) of centre 0 and width 4096, to 16 bits
    command = ["dcm2pnm", "+Ww", "0", "4096", "+on2", "out.dcm", "out.png"]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    grey = np.asarray(Image.open(tmp_path / "out.png")).astype(float)
    expected = ((image.pixels[0, ::-1] + 40 + 0.5) / 4095 + 0.5) * 65535
    assert np.abs(grey - expected).max() <= 16  # one HU is 16 grey levels
