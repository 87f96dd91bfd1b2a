"""FSG-Net against vectors of the official modules: methods/fsg-net.md, section 10, and its tolerances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn.core.segment.fsgnet.guided import coefficients, guided_filter, window_count, window_mean
from attn.core.segment.fsgnet.layers import ConvBlock, DropBlock, Gate, MConv, ResConv, SpatialAttention, drop
from attn.core.segment.fsgnet.network import FSGNet, fsgnet, load_official

VECTORS = Path(__file__).parent / "vectors" / "fsg-net"
INNER = {  # golden name -> the module of ours whose output it is
    "x4_in": "trunk.down_conv_4",
    "x4": "trunk.attn",
    "att3": "decoder.attention_block3",
    "att1": "decoder.attention_block1",
    "x3_up": "decoder.up_residual_conv3",
    "x2_up": "decoder.up_residual_conv2",
    "x1_up": "decoder.up_residual_conv1",
}


def load(name: str) -> dict[str, Tensor]:
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def under(vectors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters of a module, and the counters of batch norm, which the files leave out."""
    state = {key.removeprefix(prefix): value for key, value in vectors.items() if key.startswith(prefix)}
    counters = {key.replace("running_mean", "num_batches_tracked") for key in state if key.endswith("running_mean")}
    return state | dict.fromkeys(counters, torch.tensor(0))


def network(vectors: dict[str, Tensor], *, guided: bool = True) -> FSGNet:
    width, kernel, classes, *depths = vectors["config"].tolist()
    net = fsgnet(width, depths, kernel, classes, guided=guided)
    load_official(net, {key.removeprefix("p."): value for key, value in vectors.items() if key.startswith("p.")})
    return net.eval()


def assert_within(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    error = (actual.detach() - expected).abs().max().item()
    assert error <= tolerance, f"max error {error:.2e}, allowed {tolerance:.0e}"


@pytest.fixture(scope="module")
def guided() -> dict[str, Tensor]:
    return load("guided_filter")


@pytest.fixture(scope="module")
def blocks() -> dict[str, Tensor]:
    return load("blocks")


@pytest.fixture(scope="module")
def forward() -> dict[str, Tensor]:
    return load("forward")


def settings(vectors: dict[str, Tensor]) -> dict[str, float]:
    return {"radius": int(vectors["r"]), "eps": float(vectors["eps"])}


def test_windows(guided):
    count = window_count((10, 13), int(guided["r"]), like=guided["lr_x"])
    assert torch.equal(count, guided["box_count"])
    assert_within(window_mean(guided["lr_x"], int(guided["r"])) * count, guided["box_of_lr_x"], 1e-5)


@pytest.mark.parametrize(("batch_coupled", "name"), [(True, "out_batch_official"), (False, "out_per_image")])
def test_guided_filter(guided, batch_coupled, name):
    inputs = [guided[key] for key in ("lr_x", "lr_y", "hr_x", "att")]
    out = guided_filter(*inputs, **settings(guided), batch_coupled=batch_coupled)
    assert_within(out, guided[name], 1e-5)
    other = guided["out_per_image" if batch_coupled else "out_batch_official"]
    assert (out - other).abs().max() > 1e-3  # the two modes differ by far more than the tolerance


def test_guided_filter_coefficients(guided):
    low, target, attention = (guided[key][:1] for key in ("lr_x", "lr_y", "att"))
    slope, offset = coefficients(low, target, attention, **settings(guided))
    assert_within(slope, guided["A"], 1e-5)
    assert_within(offset, guided["b"], 1e-5)
    assert_within(window_mean(slope, int(guided["r"])), guided["A_mean"], 1e-5)
    assert_within(window_mean(offset, int(guided["r"])), guided["b_mean"], 1e-5)


def test_guided_filter_gradients(guided):
    """1e-4 relative to the largest of each input's gradient."""
    names = ("lr_x", "lr_y", "hr_x", "att")
    leaves = [guided[name][:1].clone().requires_grad_() for name in names]
    (guided_filter(*leaves, **settings(guided)) * guided["grad_out"]).sum().backward()
    for name, leaf in zip(names, leaves, strict=True):
        expected = guided[f"grad_{name}"]
        assert_within(leaf.grad, expected, 1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("name", "prefix", "module", "inputs"),
    [
        ("mconv", "mconv.", MConv(3, 8, 3), ["rgb"]),
        ("convnext", "convnext.", ConvBlock(8, 3, drop_block=True), ["feat"]),
        ("self_attention", "self.", SpatialAttention(), ["feat"]),
        ("cross_attention", "cross.", Gate(8), ["feat", "gate"]),
        ("residual_conv", "res.", ResConv(8, 4), ["feat"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_block(blocks, name, prefix, module: nn.Module, inputs):
    module.load_state_dict(under(blocks, prefix))
    module.eval()
    with torch.no_grad():
        assert_within(module(*(blocks[key] for key in inputs)), blocks[name], 1e-5)


def test_drop_block_with_the_recorded_draw(blocks):
    x = blocks["drop_in"]
    assert DropBlock(7, 0.5).rate(x.shape[3]) == pytest.approx(float(blocks["drop_gamma"]), rel=1e-12)
    assert blocks["drop_seed_mask"].sum() > 0
    assert_within(drop(x, blocks["drop_seed_mask"], 7), blocks["drop_out"], 1e-5)


@torch.no_grad()
def test_network_and_its_inner_tensors(forward):
    net, found, filtered = network(forward), {}, []
    for name, path in INNER.items():
        net.get_submodule(path).register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
    net.decoder.up_residual_conv3.register_forward_pre_hook(lambda _m, inputs: filtered.append(inputs[0].clone()))
    maps: dict[str, Tensor] = {}
    out = net(forward["x"], maps)
    for ours, name in zip(out, ("out1", "out2", "out3"), strict=True):
        assert_within(ours, forward[name], 1e-5)
    for name in INNER:
        assert_within(found[name], forward[name], 1e-4)
    assert_within(filtered[0], forward["fgf3"], 1e-4)
    assert list(maps) == ["att3", "att2", "att1"]
    assert_within(maps["att3"], forward["att3"], 1e-4)
    assert_within(maps["att1"], forward["att1"], 1e-4)


@torch.no_grad()
def test_network_at_odd_size(forward):
    odd = load("forward_odd")
    for ours, name in zip(network(forward)(odd["x"]), ("out1", "out2", "out3"), strict=True):
        assert_within(ours, odd[name], 1e-5)


@torch.no_grad()
def test_ablation_without_the_guided_block():
    vectors = load("forward_nogrm")
    for ours, name in zip(network(vectors, guided=False)(vectors["x"]), ("out1", "out2", "out3"), strict=True):
        assert_within(ours, vectors[name], 1e-5)


def test_every_golden_array_is_one_of_a_known_kind(forward):
    """An array that appears in a newer file must not go unread."""
    read = {"config", "x", "out1", "out2", "out3", "fgf3", *INNER}
    assert {key for key in forward if not key.startswith("p.")} == read
    assert {key for key in load("forward_nogrm") if not key.startswith("p.")} == {"config", "x", "out1", "out2", "out3"}
    assert set(load("forward_odd")) == {"x", "out1", "out2", "out3"}
