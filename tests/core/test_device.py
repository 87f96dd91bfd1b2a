"""Names of devices and dtypes, right and wrong."""

import pytest
import torch

from attn.core.device import available_cores, pick_device, pick_dtype, set_threads
from attn.core.errors import UsageError


def test_auto_and_cpu():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "", "tpu"])
def test_unknown_device(name):
    with pytest.raises(UsageError, match="device: no device named"):
        pick_device(name)


def test_absent_device():
    with pytest.raises(UsageError, match="cuda:99 is not here"):
        pick_device("cuda:99")


def test_dtypes():
    assert pick_dtype("bf16") == torch.bfloat16
    assert pick_dtype("float64") == torch.float64
    with pytest.raises(UsageError, match="Did you mean float32"):
        pick_dtype("flaot32")


def test_threads():
    before = torch.get_num_threads()
    assert set_threads(1) == 1
    assert set_threads(None) == available_cores()
    torch.set_num_threads(before)
