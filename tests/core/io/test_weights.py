"""Model files that are damaged, forged or no files at all: one line each."""

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from attn.core.errors import UsageError
from attn.core.io.weights import check_architecture, read_description, read_weights, write_weights

GOOD = {"format": "thing", "version": 1}


def read(path):
    return read_weights(path, "thing", 1, lambda described, state: state["a"], what="thing of attn")


def test_what_is_written_comes_back(tmp_path):
    write_weights(tmp_path / "a", {"a": torch.ones(3)}, GOOD)
    assert torch.equal(read(tmp_path / "a"), torch.ones(3, dtype=torch.float16))
    assert read_description(tmp_path / "a") == GOOD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("null", "is no thing of attn"),
        ("[1]", "is no thing of attn"),
        ('{"format": ["thing"], "version": 1}', "is no thing of attn"),
        ('{"format": {"thing": 1}}', "is no thing of attn"),
        ('{"format": "thing"}', "does not hold the model"),
        ('{"format": "thing", "version": "1"}', "does not hold the model"),
        ('{"format": "thing", "version": 2}', r"newer attn \(format 2\)"),
        ('{"format": "thing", "version": NaN}', "cannot be read"),
        ('{"format": "thing", "version": ' + "9" * 5000 + "}", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("not json", "cannot be read"),
    ],
    ids=lambda text: text[:20],
)
def test_forged_descriptions(text, message, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a", {"attn": text})
    with pytest.raises(UsageError, match=message) as caught:
        read(tmp_path / "a")
    assert "--model" not in str(caught.value)  # it may have been --filter
    assert str(caught.value).isprintable()


def raw(path, header, data=b""):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


@pytest.mark.parametrize(
    "header",
    [
        b"null",
        b"[" * 5000,
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}',
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
        {"a": None},
        {"__metadata__": {"attn": 7}},
        {"__metadata__": None, "a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}},
    ],
    ids=lambda header: str(header)[:30],
)
def test_forged_headers(header, tmp_path):
    raw(tmp_path / "a", header, bytes(4))
    for function in (read, read_description):
        with pytest.raises(UsageError, match="is no safetensors file"):
            function(tmp_path / "a")


def test_weights_that_are_not_finite(tmp_path):
    save_file({"a": torch.tensor([1, torch.nan])}, tmp_path / "a", {"attn": json.dumps(GOOD)})
    with pytest.raises(UsageError, match=r"holds NaN or infinite weights \(a\)"):
        read(tmp_path / "a")


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # would block for ever
    for path, message in (
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path, "is a directory"),
        ("/dev/zero", "not a regular file"),
        (tmp_path / "none", "does not exist"),
    ):
        for function in (read, read_description):
            with pytest.raises(UsageError, match=message):
                function(path)


def test_a_described_architecture_is_held_to_the_weights_before_it_is_built():
    net = torch.nn.Linear(4, 3)
    built = []

    def build():
        built.append(torch.zeros(0).device.type)
        return torch.nn.Linear(4, 3)

    check_architecture({"width": 4, "layers": 2, "size": [4, 3], "name": "x"}, build, net.state_dict())
    assert built == ["meta"]
    for forged in ({"width": 10**9}, {"vision_layers": 3}, {"size": [4, 16]}, {"width": -1}):
        with pytest.raises(ValueError, match="fewer weights than its architecture asks for"):
            check_architecture(forged, build, net.state_dict())
    assert built == ["meta"]
    with pytest.raises(ValueError, match="1 of its weights are of another architecture, such as bias"):
        check_architecture({}, build, {"weight": torch.zeros(3, 4)})
    check_architecture({}, build, {"weight": torch.zeros(3, 4)}, whole=False)
    with pytest.raises(ValueError, match="1 of its weights are of another architecture, such as weight"):
        check_architecture({}, build, {"weight": torch.zeros(4, 4)}, whole=False)
