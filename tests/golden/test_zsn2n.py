"""ZS-N2N against vectors of its published code: methods/filter2noise.md, section 10, 1e-5, and 1e-3 after 20 steps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attn.core.denoise.filter2noise.method import downsample_pair
from attn.core.denoise.zs_n2n import RECIPES, Network, apply, objective, train


@pytest.fixture
def vectors() -> dict[str, Tensor]:
    with np.load(Path(__file__).parent / "vectors" / "filter2noise" / "zsn2n.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


@pytest.fixture
def network(vectors: dict[str, Tensor]) -> Network:
    network = Network()
    network.load_state_dict({name[2:]: value for name, value in vectors.items() if name.startswith("p.")})
    return network


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.detach(), expected.to(actual.dtype), rtol=0, atol=tolerance)


def test_views(vectors: dict[str, Tensor]) -> None:
    for view, expected in zip(downsample_pair(vectors["x"]), (vectors["down1"], vectors["down2"]), strict=True):
        close(view, expected, 1e-5)


def test_network(vectors: dict[str, Tensor], network: Network) -> None:
    close(network(vectors["x"]), vectors["net_out"], 1e-5)


def test_loss_and_gradients(vectors: dict[str, Tensor], network: Network) -> None:
    loss = objective(network, vectors["x"])
    loss.backward()
    close(loss, vectors["loss"], 1e-5)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad, vectors[f"g.{name}"], 1e-5)


def test_twenty_steps(vectors: dict[str, Tensor], network: Network) -> None:
    constant = replace(RECIPES["paper"], steps=20, halve_after=1.0)  # the published rate is halved after step 1500 only
    losses = train(network, vectors["x"], constant, seed=0)
    close(torch.tensor(losses, dtype=torch.float64), vectors["losses20"], 1e-3)
    close(apply(network, vectors["x"]), vectors["denoised20"], 1e-3)
