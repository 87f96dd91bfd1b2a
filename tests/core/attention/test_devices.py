"""Every operator works where its tensors are, over the registry: nothing of it is made on the CPU in between."""

import pytest
import torch
from elsewhere import OtherDevice, back, elsewhere
from qkv import random_qkv
from small_operators import NAMES, arguments

from attn.core.attention import attention
from attn.core.attention.registry import OPERATORS

QKV = random_qkv((1, 2, 2, 256, 256, 32), seed=3)
COMPILED = {name for name in NAMES if OPERATORS[name].resolve().compiled}


@pytest.mark.parametrize("name", NAMES)
def test_on_the_inputs_own_device(name):
    truth = attention(name, *QKV, backend="reference", **arguments(name))
    there = [elsewhere(x) for x in QKV]
    with torch.no_grad(), OtherDevice():
        found = attention(name, *there, backend="reference", **arguments(name))
        assert torch.equal(back(found), truth)
        if name not in COMPILED:  # an engine of its own, which looks into tensors
            out = back(attention(name, *there, **arguments(name)))
            assert (out - truth).abs().max() <= 1e-5 * truth.abs().max()


@pytest.mark.parametrize("name", sorted(set(NAMES) - COMPILED))
def test_selections_on_their_own_device(name):
    operator = OPERATORS[name].resolve()
    if operator.select is None:
        pytest.skip("chooses nothing")
    with torch.no_grad(), OtherDevice():
        chosen = operator.select(*(elsewhere(x) for x in QKV[:2]), scale=None, **arguments(name))
        mask = chosen.mask(torch.arange(0, 256, 50, device="cuda"))
        assert chosen.useful
        assert chosen.executed
    plain = operator.select(*QKV[:2], scale=None, **arguments(name))
    assert torch.equal(back(mask), plain.mask(torch.arange(0, 256, 50)))


@pytest.mark.parametrize(
    ("order", "text"), [("gilbert", {}), ("tile:2x4x4", {"text_len": 16, "text_valid": 5}), ("raster", {})]
)
def test_a_video_on_its_own_device(order, text):
    frames = (240 if text else 256) // 64
    params = {"block_size": 16, "drop_rate": 0.7, "order": order, "video": (frames, 8, 8), **text}
    if text:
        params["video"] = (15, 4, 4)
    there = [elsewhere(x) for x in QKV]
    with torch.no_grad(), OtherDevice():
        for backend in ("reference", "auto"):
            out = back(attention("rectified", *there, causal=False, backend=backend, **params))
            torch.testing.assert_close(out, attention("rectified", *QKV, causal=False, **params), rtol=1e-5, atol=1e-6)


def test_the_other_device_refuses_what_a_gpu_refuses():
    here = torch.arange(4.0)
    there = elsewhere(here)
    with OtherDevice():
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(RuntimeError, match="same device"):
            here[there.long()]
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there * 2 + torch.arange(4, device="cuda")).device.type == "cuda"
        assert torch.equal(there.cpu() + here, 2 * here)
        assert there[torch.tensor([1])].device.type == "cuda"
