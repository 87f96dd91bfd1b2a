"""Model files: what was written comes back, and what is no model is refused in one line."""

import json

import pytest
import torch
from safetensors.torch import save_file

from attn.core.errors import UsageError
from attn.core.segment.fsgnet.checkpoint import FSGNetArchitecture, FSGNetCheckpoint, read_checkpoint, write_checkpoint
from attn.core.segment.prepare import Preparation
from attn.core.segment.threshold import Calibration

SMALL = FSGNetArchitecture(width=2, depths=(1, 1, 1, 1))


def made(path, architecture=SMALL):
    torch.manual_seed(1)
    net = architecture.build()
    preparation, calibration = Preparation(321.0, "imagenet", 400.0, 4.0), Calibration(0.7, -0.25)
    write_checkpoint(
        FSGNetCheckpoint("mine", architecture, preparation, 0.375, net.state_dict(), {"steps": 5}, calibration), path
    )
    return net.eval()


def test_round_trip_in_float16(tmp_path):
    net = made(tmp_path / "m.safetensors")
    found = read_checkpoint(tmp_path / "m.safetensors")
    assert (found.name, found.threshold, found.training) == ("mine", 0.375, {"steps": 5})
    assert found.preparation == Preparation(321.0, "imagenet", 400.0, 4.0)
    assert found.calibration == Calibration(0.7, -0.25)
    assert found.architecture == SMALL
    theirs = found.build()
    assert not theirs.training
    for name, value in net.state_dict().items():
        stored = theirs.state_dict()[name]
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(stored, expected), name


@pytest.mark.parametrize("options", [{"trunk": "unet"}, {"guided": False}, {"attention": False}], ids=str)
def test_every_kind_of_network_comes_back(tmp_path, options):
    architecture = FSGNetArchitecture(**{"width": 2, "depths": (1, 1, 1, 1), **options})
    made(tmp_path / "m.safetensors", architecture)
    assert read_checkpoint(tmp_path / "m.safetensors").architecture == architecture


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_checkpoint(tmp_path / "m.safetensors")


def test_no_safetensors(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"hello")
    with pytest.raises(UsageError, match="is no safetensors file"):
        read_checkpoint(tmp_path / "m.safetensors")


def test_weights_of_somebody_else(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="no segmentation model of attn"):
        read_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "newer attn"),
        ({"architecture": {"width": 3}}, "does not hold"),
        ({"threshold": "x"}, "not hold"),
    ],
    ids=str,
)
def test_damaged_description(tmp_path, change, message):
    net = made(tmp_path / "m.safetensors")
    described = {
        "format": "attn-segment", "version": 1, "name": "x", "threshold": 0.5, "training": {},
        "architecture": {"width": 2, "depths": [1, 1, 1, 1]}, "preparation": {},
    } | change  # fmt: skip
    if "architecture" in change:
        described["architecture"]["depths"] = [1, 1, 1, 1]
    save_file(net.state_dict(), tmp_path / "m.safetensors", {"attn": json.dumps(described)})
    with pytest.raises(UsageError, match=message):
        read_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": True}, {"threshold": float("nan")}, {"threshold": 1.5}, {"threshold": None}, {"name": None},
        {"name": "x" * 5000}, {"version": "1"}, {"version": True, "threshold": []},
        {"preparation": {"fov_diameter": 0}}, {"preparation": {"calibre": 0}}, {"preparation": {"fine_diameter": 10}},
        {"preparation": {"calibre": "4"}}, {"calibration": None}, {"calibration": {"slope": 0}},
        {"calibration": {"offset": float("nan")}}, {"calibration": {"bend": 1}}, {"calibration": {"slope": "1"}},
        {"preparation": {"fov_diameter": 1e308}}, {"preparation": {"fov_diameter": "540"}}, {"preparation": None},
        {"preparation": {"normalise": "none"}}, {"architecture": {"width": 2**40}}, {"architecture": {"width": True}},
        {"architecture": {"trunk": "x"}}, {"architecture": {"depths": [1, 1, 10**9, 1]}}, {"architecture": None},
        {"architecture": {"depths": [1]}}, {"architecture": {"guided": 1}}, {"architecture": {"kernel": 0}},
        {"architecture": {"width": 1024}}, {"architecture": {"kernel": 1023}}, {"architecture": {"width": 3}},
    ],
    ids=lambda change: str(change)[:60],
)  # fmt: skip
def test_a_forged_description_is_one_line(tmp_path, change):
    net = made(tmp_path / "m.safetensors")
    shape = {"width": 2, "depths": [1, 1, 1, 1]}
    described = {
        "format": "attn-segment", "version": 1, "name": "x", "threshold": 0.5, "training": {},
        "architecture": shape, "preparation": {},
    } | change  # fmt: skip
    if isinstance(change.get("architecture"), dict):
        described["architecture"] = shape | change["architecture"]
    save_file(net.state_dict(), tmp_path / "m.safetensors", {"attn": json.dumps(described)})
    with pytest.raises(UsageError) as caught:
        read_checkpoint(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)
