"""The recipe of the codebook: its worlds, what is kept apart, how agents are scored, and runs that go on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attn.core.bundles import Compute
from attn.core.errors import UsageError
from attn.core.fit import loop as trainer
from attn.core.options import OptionError
from attn.core.probe.codebook import data, rollout
from attn.core.probe.codebook.agent import Agent, AgentShape, Bottleneck, read_agent, write_agent
from attn.core.probe.codebook.views import BATCH, RandomTiles, ViewFeatures, encoder_of, recoloured
from attn.core.probe.codebook.world import COLOURS, FORWARD, TYPES, WORDS, EpisodeStart, Goal, Thing, World
from attn.core.train.codebook.options import CodebookOptions
from attn.core.train.codebook.recipe import CloningRecipe, School, answers
from attn.core.train.codebook.run import BOTTLENECKS, half, train_codebook

ROOM = "BabyAI-GoToLocalS6N3-v0"
CPU = torch.device("cpu")
SHAPE = AgentShape(64, 7, 7, 8, 4, "codebook", 12, 3, 0.1, "softmax", "learned", 4)


def options(folder: Path, **changes: Any) -> CodebookOptions:
    small = CodebookOptions(
        folder, demonstrations=24, judged=3, hidden=8, compressed=4, codes=12, code_dim=3, steps=4, warmup=1, batch=4,
        adapt=2, evaluate_every=2, compute=Compute(device="cpu", threads=1),
    )  # fmt: skip
    return replace(small, **changes)


@pytest.fixture(scope="module")
def world() -> World:
    return World(ROOM)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)


def test_goals_have_words_of_their_own() -> None:
    things = [Thing(type_, colour) for type_ in TYPES for colour in COLOURS]
    words = [tuple(Goal(one, other).words()) for one in things for other in things]
    assert len(set(words)) == len(things) ** 2
    assert {word for four in words for word in four} == set(range(WORDS))
    assert Goal(Thing("ball", "red")).words() == Goal(Thing("ball", "red"), Thing("none", "none")).words()
    assert str(Goal(Thing("ball", "none"), Thing("key", "red"))) == "ball to red key"
    assert {thing.colour for thing in data.HELD_OUT} == set(COLOURS[1:])


def test_what_is_seen_decides_the_picture(world: World) -> None:
    pictures: dict[bytes, Any] = {}
    again = 0
    for seed in range(40):
        world.begin(seed)
        planner = world.planner()
        for _ in range(3):
            seen, picture = world.seen(), world.picture()
            again += seen in pictures
            assert np.array_equal(pictures.setdefault(seen, picture), picture)
            action = planner.next()
            assert action is not None
            if world.act(action)[1]:
                break
    assert again > 3
    assert picture.shape == (3, 56, 56)
    assert picture.min() >= 0
    assert picture.max() <= 1
    other = recoloured(picture)
    np.testing.assert_array_equal(other, 1 - picture)
    assert not np.array_equal(other, picture)


def test_a_seed_is_an_episode(world: World) -> None:
    cases = [world.begin(seed) for seed in (3, 4, 3)]
    assert cases[0] == cases[2]
    assert cases[0].layout != cases[1].layout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BabyAI-GoToLocalS6N9-v0", "has no environment of BabyAI named 'BabyAI-GoToLocalS6N9-v0'"),
        ("CartPole-v1", "has no environment of BabyAI named 'CartPole-v1'"),
        ("BabyAI-GoToSeq-v0", "BabyAI-GoToSeq-v0 asks to '.*': only missions that name one thing"),
    ],
)
def test_worlds_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        World(name).begin(1)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(UsageError, match=r"minigrid.* not installed.*pip install 'attn\[agents\]'"):
        World(ROOM)


def test_training_shares_nothing_with_the_tests(world: World) -> None:
    test = data.draw_episodes(world, data.TEST, 5, 12, held_out=False)
    targets = data.draw_episodes(world, data.TARGETS, 5, 12, held_out=True)
    assert all(data.is_held_out(case.goal) for case in targets.cases)
    training = data.draw_episodes(world, data.TRAINING, 5, 12, held_out=False, apart=test.layouts())
    assert data.check_disjoint(training, [test, targets]) == {"seeds": 0, "layouts": 0, "targets": 0}
    assert training.left_out.target > 0
    same = data.draw_episodes(world, data.TEST, 5, 12, held_out=False)
    assert same.digest() == test.digest() != training.digest()
    assert data.check_disjoint(same, [test]) == {"seeds": 12, "layouts": 12, "targets": 0}
    assert data.check_disjoint(targets, [test])["targets"] == 12
    others = data.draw_episodes(world, data.TEST, 5, 12, held_out=False, apart=test.layouts())
    assert others.left_out.layout == 12
    assert not others.layouts() & test.layouts()
    assert others.left_out.notices() == (
        "12 drawn layouts are also layouts of the tests: others were drawn in their place",
    )


def test_an_environment_without_held_out_targets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    red = World("BabyAI-GoToRedBall-v0")
    monkeypatch.setattr(data, "TRIES", 1)
    with pytest.raises(UsageError, match=r"0 of 2 episodes after 20 draws: .* too few held-out targets"):
        data.draw_episodes(red, data.TARGETS, 1, 2, held_out=not data.is_held_out(Goal(Thing("ball", "red"))))


def test_views_are_read_once_and_in_their_order(world: World) -> None:
    views, pictures, rows = ViewFeatures(RandomTiles(CPU), CPU), [], []
    seed = 0
    while len(views) <= BATCH + 3:
        world.begin(seed)
        rows.append(views.row(world))
        pictures.append(world.picture())
        if seed % 20 == 0:
            views.features(torch.tensor([rows[-1]]))  # reads what waits, whenever it is
        seed += 1
    expected = views.encoder(torch.from_numpy(np.stack(pictures)))
    found = views.features(torch.tensor(rows))
    assert found.shape == (len(rows), *views.shape)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    assert len(views) == len(set(rows))
    assert float(expected.std()) > 0.1
    world.begin(0)
    other = ViewFeatures(views.encoder, CPU, other_colours=True)
    assert not torch.allclose(other.features(torch.tensor([other.row(world)])), found[:1])


def test_a_vision_transformer_reads_views(world: World) -> None:
    views = ViewFeatures(encoder_of("shapes-vit", CPU), CPU)
    assert views.shape == (64, 8, 8)
    world.begin(1)
    assert views.features(torch.tensor([[views.row(world)]])).shape == (1, 1, 64, 8, 8)


def test_batches(world: World) -> None:
    views = ViewFeatures(RandomTiles(CPU), CPU)
    played = data.draw_episodes(world, data.TRAINING, 1, 5, held_out=False, views=views).played
    batch = data.batch_of(played)
    for row, one in enumerate(played):
        count = len(one.actions)
        assert count == one.case.steps == len(one.views)
        assert one.actions.count(FORWARD) >= one.case.moves
        assert batch.actions[row].tolist() == [*one.actions, *[-100] * (len(batch.actions[row]) - count)]
        assert batch.index[row, :count].tolist() == [0, *[action + 1 for action in one.actions[:-1]]]
        assert batch.goal[row].tolist() == one.case.goal.words()
    logits, actions = answers(Agent(SHAPE), views, played)
    assert actions.tolist() == [action for one in played for action in one.actions]
    assert len(logits) == len(actions)


def test_the_planner_itself_scores_one(world: World) -> None:
    cases = data.draw_episodes(world, data.TEST, 2, 7, held_out=False).cases
    worlds = [World(ROOM) for _ in range(3)]

    def policy(round_: Sequence[EpisodeStart]) -> rollout.Choose:
        planners = [one.planner() for one in worlds[: len(round_)]]

        def choose(here: Sequence[World], before: list[int]) -> list[int]:
            assert len(here) == len(round_)
            return [FORWARD if (action := planner.next()) is None else action for planner in planners]

        return choose

    played = rollout.play(worlds, cases, policy)
    assert [one.case for one in played] == list(cases)
    found = rollout.scores(played)
    assert (found["success"], found["spl"], found["sel"]) == (1, 1, 1)
    chance = rollout.scores(rollout.play(worlds, cases, rollout.at_random(0)))
    assert chance["sel"] < 0.5


def test_scores_of_known_episodes() -> None:
    case = EpisodeStart(1, "", Goal(Thing("ball", "red")), steps=4, moves=2)
    played = [
        rollout.Played(case, True, 0.9, 8, 2), rollout.Played(case, True, 0.7, 5, 8),
        rollout.Played(case, False, 0.0, 30, 1), rollout.Played(replace(case, moves=0), True, 1.0, 4, 0),
    ]  # fmt: skip
    found = rollout.scores(played)
    assert found["success"] == 0.75
    assert found["reward"] == pytest.approx(2.6 / 4)
    assert found["spl"] == pytest.approx((1 + 0.25 + 0 + 1) / 4)
    assert found["sel"] == pytest.approx((0.5 + 0.8 + 0 + 1) / 4)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_agents_remember_and_differ_in_their_bottleneck_alone(bottleneck: Bottleneck, tmp_path: Path) -> None:
    torch.manual_seed(3)
    first = Agent(SHAPE)
    torch.manual_seed(3)
    agent = Agent(replace(SHAPE, bottleneck=bottleneck)).eval()
    own = {name: value for name, value in agent.state_dict().items() if not name.startswith("bottleneck")}
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in own.items())
    features, goal = torch.randn(2, 5, 64, 7, 7), torch.tensor([Goal(Thing("ball", "red")).words()] * 2)
    index = torch.randint(8, (2, 5))
    logits, state = agent(features, goal, index)
    start, middle = agent(features[:, :3], goal, index[:, :3])
    rest, last = agent(features[:, 3:], goal, index[:, 3:], middle)
    torch.testing.assert_close(torch.cat([start, rest], 1), logits)
    torch.testing.assert_close(last, state)
    agent.adapting()
    learning = {name.partition(".")[0] for name, value in agent.named_parameters() if value.requires_grad}
    assert learning == {"encoder", "action"}
    write_agent(tmp_path / "a.safetensors", agent, {"name": "random"}, {"of": 1})
    saved = read_agent(tmp_path / "a.safetensors")
    assert saved.agent.shape == agent.shape
    torch.testing.assert_close(saved.agent(features, goal, index)[0], logits, rtol=1e-2, atol=1e-2)


def test_cloning_learns(world: World) -> None:
    """Some steps on a few episodes: the planner's actions there are known by heart."""
    views = ViewFeatures(RandomTiles(CPU), CPU)
    few = data.draw_episodes(world, data.TRAINING, 1, 8, held_out=False, views=views)
    school = School(views, few, few, [World(ROOM) for _ in range(4)])
    torch.manual_seed(1)
    agent = Agent(replace(SHAPE, bottleneck="none", hidden=32, compressed=8))
    recipe = CloningRecipe(agent, school, 8, 1)
    before = recipe.evaluate(agent.eval())
    steps = torch.optim.Adam(agent.parameters(), 1e-2)
    for step in range(150):
        steps.zero_grad()
        recipe.loss(step).backward()
        steps.step()
    after = recipe.evaluate(agent)
    assert after["accuracy"] == 1 > before["accuracy"]
    assert after["success"] == after["spl"] == 1
    assert recipe.stalled_below[1] < 1


def test_half() -> None:
    rows = tuple({"step": step, "success": value} for step, value in ((2, 0.4), (4, 0.5), (6, 0.3)))
    outcome = trainer.Outcome({}, rows, 1.0, ())
    assert half(outcome) == 4
    assert half(replace(outcome, history=rows[:1])) is None


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_codebook(options(tmp_path / "whole"))
    rows = whole.sections[0].rows()
    assert [row["bottleneck"] for row in rows] == [*BOTTLENECKS, "random actions"]
    assert {"success", "spl", "sel", "targets", "colours", "adapted"} <= set(rows[0])
    details = whole.items[0].details
    assert details["shared_with_training"] == {"seeds": 0, "layouts": 0, "targets": 0}
    assert details["layouts"]["training"] == 24
    assert (tmp_path / "whole" / "model.md").read_text().startswith("# An agent with a codebook")
    loss, steps = CloningRecipe.loss, iter(range(100))

    def until(*given: Any) -> Any:
        if next(steps) == 9:  # of the second agent, or of the first one's other colours
            raise KeyboardInterrupt
        return loss(*given)

    monkeypatch.setattr(CloningRecipe, "loss", until)
    assert train_codebook(options(tmp_path / "stopped")).left
    monkeypatch.setattr(CloningRecipe, "loss", loss)
    assert train_codebook(options(tmp_path / "stopped")).sections[0].rows() == rows
    for name in ("", "none", "linear", "adapted", "linear/adapted"):
        states = [torch.load(tmp_path / run / name / "checkpoint.pt")["model"] for run in ("whole", "stopped")]
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    frozen = torch.load(tmp_path / "whole" / "adapted" / "best.pt")
    begun = torch.load(tmp_path / "whole" / "best.pt")
    moved = {key.partition(".")[0] for key, value in begun.items() if not torch.equal(value, frozen[key])}
    assert moved == {"encoder", "action"}
    with pytest.raises(UsageError, match="holds another run"):
        train_codebook(options(tmp_path / "whole", codes=13))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"topk.* 16 is more than the 12"):
        options(tmp_path, index="topk_softmax", topk=16)
    with pytest.raises(OptionError, match="warmup"):
        options(tmp_path, warmup=4)
    (tmp_path / "no.safetensors").write_bytes(b"no")
    with pytest.raises(UsageError, match="is no safetensors file"):
        read_agent(tmp_path / "no.safetensors")
