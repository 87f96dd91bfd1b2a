"""Poolings, head, LARS and k-NN against the official code: methods/efficient-probing.md, section 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attn.core.fit.lars import Lars
from attn.core.fit.schedule import cosine_cycles
from attn.core.nets.poolings import POOLINGS
from attn.core.nets.poolings.contract import TokenShape, pooling_of
from attn.core.probe.classify.head import ProbeHead, neighbour_scores

VECTORS = Path(__file__).parent / "vectors" / "efficient-probing"
TOLERANCE = 1e-5
OTHERS = [name for name in POOLINGS if name not in ("ep", "gap")]
PARAMETERS = {
    "aim": 1949416, "cae": 3135976, "siglip": 7854568, "clip": 3284200, "coca": 1805032, "cait": 7860712,
    "dinovit": 7854568, "jepa": 7857640, "simpool": 1950184, "esimpool": 770536, "abmilp": 3720425, "dolg": 1361897,
    "cbam": 842828,
}  # fmt: skip
"""Section 6: with 768 channels and 1000 classes."""


def vectors(name: str) -> dict[str, Tensor]:
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def near(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def literal(x: Tensor, queries: Tensor, values: Tensor) -> Tensor:
    """Section 3.1 as it stands: all values are made, their blocks are averaged by the maps."""
    maps = torch.softmax(queries @ x.mT * x.shape[-1] ** -0.5, -1)
    v = (x @ values.T).unflatten(-1, (queries.shape[1], -1))  # [B, N, M, C'/M]
    return torch.einsum("bmn,bnmd->bmd", maps, v).flatten(1)


@pytest.mark.parametrize("number", range(4))
def test_efficient_pooling_and_its_gradients(number: int) -> None:
    v = vectors(f"ep_{number}")
    shape = TokenShape(64, 16, (4, 4), int(v["num_queries"]), int(v["d_out"]))
    pooling = pooling_of("ep", shape)
    pooling.load_state_dict({"cls_token": v["queries"], "v.weight": v["v_weight"]})
    x = v["x"].requires_grad_()
    y = pooling(x)
    y.backward(v["grad_y"])
    near(y, v["y"])
    near(literal(x, v["queries"], v["v_weight"]), v["y"])
    near(pooling.maps(x), v["attn"])
    queries, values = (pooling.get_parameter(name).grad for name in ("cls_token", "v.weight"))
    for ours, theirs in ((x.grad, "grad_x"), (queries, "grad_queries"), (values, "grad_v_weight")):
        near(ours, v[theirs])
    rough = pooling(x.detach().bfloat16()).detach()
    assert float((rough - v["y"]).norm() / v["y"].norm()) < 2e-2


@pytest.mark.parametrize("name", OTHERS)
def test_other_poolings(name: str) -> None:
    v = vectors(f"pool_{name}")
    pooling = pooling_of(name, TokenShape(64, 16, (4, 4)))
    if name in ("aim", "jepa", "esimpool"):  # the heads of the vectors are not the default
        heads = v["attn"].shape[1] if name == "esimpool" else int(v["heads"])
        pooling.heads = heads
        for module in pooling.modules():
            if hasattr(module, "heads"):
                module.heads = heads
    state = {key[2:]: value for key, value in v.items() if key.startswith("p.")}
    if name == "aim":  # written after the step in train mode, too
        state |= {"bn.running_mean": torch.zeros(64), "bn.running_var": torch.ones(64)}
    pooling.load_state_dict(state)
    pooling.train(name == "aim")
    near(pooling(v["x"]), v["y"])
    maps = pooling.maps(v["x"])
    assert (maps is None) == (name == "dinovit")
    if "attn" in v:
        assert maps is not None
        near(maps.flatten(), v["attn"].flatten())
    if name == "aim":
        pooling.load_state_dict(state)
        pooling(v["x"])
        near(pooling.get_buffer("bn.running_mean"), v["bn_mean_after"])
        near(pooling.get_buffer("bn.running_var"), v["bn_var_after"])
        near(pooling.eval()(v["x"]), v["y_eval_after"])


@pytest.mark.parametrize("name", OTHERS)
def test_parameters_of_section_6(name: str) -> None:
    with torch.device("meta"):
        assert ProbeHead(name, TokenShape(768, 196, (14, 14)), 1000).parameter_count == PARAMETERS[name]


@pytest.mark.parametrize(
    ("queries", "d_out", "count"),
    [(8, 1, 1364968), (12, 1, 1368040), (32, 1, 1383400), (64, 1, 1407976), (32, 8, 195304), (48, 8, 207592)],
)
def test_parameters_of_efficient_pooling(queries: int, d_out: int, count: int) -> None:
    with torch.device("meta"):
        head = ProbeHead("ep", TokenShape(768, 196, None, queries, d_out), 1000)
    assert head.parameter_count == count


def test_lars() -> None:
    v = vectors("lars")
    parameters = {name: torch.nn.Parameter(v[f"{name}0"]) for name in "wbz"}
    optimizer = Lars(
        parameters.values(), float(v["lr"]), float(v["weight_decay"]), float(v["momentum"]), float(v["trust"])
    )
    for step in range(4):
        for name, parameter in parameters.items():
            parameter.grad = v[f"g{step}_{name}"].clone()
        optimizer.step()
        for name, parameter in parameters.items():
            near(parameter.detach(), v[f"{name}{step + 1}"])


def five_steps(start: dict[str, Tensor], v: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """State, losses and rates of the recipe of ``train_lars``."""
    head = ProbeHead("ep", TokenShape(64, 16, (4, 4), int(v["num_queries"]), int(v["d_out"])), 5)
    head.load_state_dict(start, strict=False)
    optimizer = Lars(head.parameters(), 1.6)
    losses, rates = [], []
    for step in range(5):
        rates.append(1.6 * cosine_cycles(step + 0.5, steps=6, warmup=2))
        optimizer.param_groups[0]["lr"] = rates[-1]
        loss = F.cross_entropy(head(v["x"]), v["labels"])
        head.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return {name: value.detach().clone() for name, value in head.state_dict().items()}, losses, rates


def test_training_with_lars() -> None:
    """The file's ``p0`` is its ``p5``: it was kept by reference. The start in ``train_lars_start`` was found from
    ``p5`` (Newton's method on the five biases, a damped fixed point on the rest): five steps lead to ``p5``, on the way
    the losses are those of the file, and the biases are in the range of ``nn.Linear``."""
    v, start = vectors("train_lars"), vectors("train_lars_start")
    assert all(torch.equal(v[f"p0.{name}"], v[f"p5.{name}"]) for name in start)
    assert float(start["2.bias"].abs().max()) <= 1 / 8
    reached, losses, rates = five_steps(start, v)
    np.testing.assert_allclose(rates, v["lrs"], rtol=1e-8)
    np.testing.assert_allclose(losses, v["losses"], atol=TOLERANCE)
    for name, value in reached.items():
        near(value, v[f"p5.{name}"])


def test_neighbours() -> None:
    v = vectors("knn")
    pairs = [(int(k), float(t)) for k, t in zip(v["k"], v["T"], strict=True)]
    found = []
    for scores in neighbour_scores(v["test"], v["train"], v["train_labels"], int(v["train_labels"].max()) + 1, pairs):
        best = scores.topk(5).indices == v["test_labels"][:, None]
        found.append((100 * best[:, 0].double().mean(), 100 * best.any(1).double().mean()))
    np.testing.assert_allclose(found, v["top1_top5"], atol=1e-9)
