"""`attn probe codebook`: what it finds in an archive and in an agent, and what it says of bad input."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from attn.core.errors import AttnError
from attn.core.probe.codebook import run as probing
from attn.core.probe.codebook.agent import Agent, AgentShape, Bottleneck, write_agent
from attn.core.probe.codebook.options import CodebookProbeOptions
from attn.core.probe.codebook.views import RandomTiles
from attn.core.probe.codebook.world import Thing, World

ROOM = "BabyAI-GoToLocalS6N3-v0"
CPU = torch.device("cpu")


def agent_file(path: Path, bottleneck: Bottleneck = "codebook", environment: str = ROOM, of: str = "") -> Path:
    torch.manual_seed(1)
    agent = Agent(AgentShape(64, 7, 7, 8, 4, bottleneck, 12, 3, 0.1, "softmax", "learned", 4))
    encoder = {"name": "random", "fingerprint": of or RandomTiles(CPU).fingerprint}
    write_agent(path, agent, encoder, {"options": {"environment": environment}})
    return path


def test_archive_tells_codes_apart(tmp_path: Path) -> None:
    probs = np.eye(6, 8)[np.arange(60) % 6] * 0.92 + 0.01  # codes 6 and 7 are dead
    goals = np.arange(60) % 3 * 5
    images = np.repeat((np.arange(60) // 6).astype(np.uint8), 12).reshape(60, 2, 2, 3)
    np.savez(tmp_path / "p.npz", probs=probs, goals=goals, images=images, codes=np.eye(8, 4))
    report = probing.run(CodebookProbeOptions(tmp_path / "p.npz", str(tmp_path / "out"), device="cpu"))
    metrics = report.items[0].metrics
    assert metrics["frames"] == 60
    assert metrics["dead_hard"] == pytest.approx(2 / 8)
    assert metrics["hard_perplexity"] == pytest.approx(6)
    assert metrics["goal_information_share"] == pytest.approx(1)
    with np.load(tmp_path / "out" / "p.codebook.npz") as held:
        assert held["by_goal"].shape == (8, 3)
        assert held["views"][2, :, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert (tmp_path / "out" / "p.codebook.png").stat().st_size > 1000


def test_agent_is_read_in_its_world(tmp_path: Path) -> None:
    path = agent_file(tmp_path / "model.safetensors")
    report = probing.run(CodebookProbeOptions(path, str(tmp_path), episodes=12, device="cpu"))
    metrics = report.items[0].metrics
    assert metrics["frames"] >= 12
    assert 0 < metrics["target_share"] < 1
    assert {f"{what}_{where}" for what in ("target", "clutter") for where in ("E", "E_hat", "code")} <= set(metrics)
    again = probing.run(CodebookProbeOptions(path, str(tmp_path), episodes=12, device="cpu"))
    np.testing.assert_equal(dict(again.items[0].metrics), dict(metrics))


def test_things_in_view_are_those_of_the_room() -> None:
    world = World(ROOM)
    last = []
    for seed in range(12):
        case, planner, over = world.begin(seed), world.planner(), False
        while not over and (action := planner.next()) is not None:
            things = world.things_seen()
            over = world.act(action)[1]
        last.append(any(case.goal.thing.fits(thing) for thing in things))
    assert all(last)  # the planner's last step is before its goal
    assert Thing("ball", "none").fits(Thing("ball", "red"))
    assert not Thing("ball", "blue").fits(Thing("ball", "red"))


def test_read_outs_find_what_is_there_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    x, test = draw.normal(size=(2000, 5)), np.arange(2000) % 2 == 1
    assert probing.explained(x, x[:, 1] * 3 + 2, test) > 0.99
    assert probing.explained(x, draw.normal(size=2000), test) < 0.02
    assert probing.told_apart(x, x[:, 0] > 1.2, test) > 0.85  # a tenth of the rows
    assert abs(probing.told_apart(x, draw.random(2000) < 0.1, test) - 0.5) < 0.1
    assert np.isnan(probing.told_apart(x, np.zeros(2000, bool), test))


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"p": np.eye(3)}, "probs"),
        ({"probs": np.eye(3) * 2}, "row 0 is no distribution"),
        ({"probs": np.ones(3)}, "not float"),
        ({"probs": np.eye(3), "goals": np.array([0, 1])}, "goals"),
        ({"probs": np.eye(3), "codes": np.ones((2, 2))}, "codes"),
        ({"probs": np.eye(3), "images": np.ones((3, 2, 2, 3))}, "images"),
    ],
)
def test_wrong_archives_are_told(tmp_path: Path, held: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "p.npz", **held)  # type: ignore[arg-type]
    with pytest.raises(AttnError, match=said) as told:
        probing.run(CodebookProbeOptions(tmp_path / "p.npz", str(tmp_path / "out"), device="cpu"))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_wrong_agents_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(path: Path) -> str:
        with pytest.raises(AttnError) as told:
            probing.run(CodebookProbeOptions(path, str(tmp_path), episodes=4, device="cpu"))
        assert "\n" not in str(told.value)
        return str(told.value)

    assert "its bottleneck is linear" in said(agent_file(tmp_path / "linear.safetensors", "linear"))
    assert "another encoder" in said(agent_file(tmp_path / "other.safetensors", of="else"))
    assert "no environment" in said(agent_file(tmp_path / "where.safetensors", environment="BabyAI-No-v0"))
    (tmp_path / "text.safetensors").write_text("none")
    assert "text.safetensors" in said(tmp_path / "text.safetensors")
    path = agent_file(tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert "pip install 'attn[agents]'" in said(path)
