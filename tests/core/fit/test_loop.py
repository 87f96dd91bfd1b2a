import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attn.core.errors import InputError, UsageError
from attn.core.fit import loop as trainer
from attn.core.fit.loop import BEST, CHECKPOINT, CURVE, METRICS, Plan, State, fit, stall

# a warm-up as long as the run: the rate of a step does not depend on the run's length, which resuming may change
PLAN = Plan(steps=8, warmup=8, learning_rate=0.05, evaluate_every=2, average=0.9, seed=5)


class Toy:
    """Batch norm (buffers), dropout (torch's generator), data drawn from the step: what resuming must restore."""

    score = "f1"
    stalled_below = ("f1", 0.5)

    def __init__(self, init=0, data_seed=0, scores=(), fail_at=None, error=None, nan_at=None):
        torch.manual_seed(init)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.data_seed, self.scores, self.fail_at, self.nan_at = data_seed, scores, fail_at, nan_at
        self.error = error or RuntimeError("killed")
        self.evaluated, self.modes, self.rates = [], [], []

    def loss(self, step):
        if step == self.fail_at:
            raise self.error
        self.modes.append(self.model.training)
        x = torch.from_numpy(np.random.default_rng((self.data_seed, step)).standard_normal((6, 4), dtype=np.float32))
        loss = (self.model(x)[:, 0] - x.sum(1)).square().mean()
        return loss * float("nan") if step == self.nan_at else loss

    def evaluate(self, model):
        assert not model.training
        assert torch.is_inference_mode_enabled()
        self.evaluated.append(copy(model))
        n = len(self.evaluated)
        x = torch.from_numpy(np.random.default_rng(99).standard_normal((32, 4), dtype=np.float32))
        value = self.scores[n - 1] if self.scores else -float((model(x)[:, 0] - x.sum(1)).square().mean())
        return {"f1": value, "other": 2 * value}


def copy(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(one, other):
    """Bit-equal weights."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def deep_equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(deep_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(deep_equal, one, other))
    return one == other


def saved(folder):
    """The checkpoint without the clock."""
    found = torch.load(folder / CHECKPOINT, weights_only=True)
    del found["state"]["seconds"]
    for row in found["state"]["history"]:
        del row["seconds"]
    return found


def lines(folder):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = (folder / METRICS).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def timeless(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(autouse=True)
def _no_curves(request, monkeypatch):
    """Drawing takes longer than all else here."""
    if "curve" not in request.node.name:
        monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)


@pytest.fixture
def whole(tmp_path):
    """An uninterrupted run: recipe, outcome, folder."""
    recipe = Toy()
    return recipe, fit(recipe, PLAN, tmp_path / "whole"), tmp_path / "whole"


def assert_same_run(whole, recipe, outcome, folder):
    assert same(recipe.model.state_dict(), whole[0].model.state_dict())
    assert timeless(outcome.history) == timeless(whole[1].history)
    assert outcome.best["step"] == whole[1].best["step"]
    assert timeless(lines(folder)) == timeless(lines(whole[2]))
    assert deep_equal(saved(folder), saved(whole[2]))
    best = [torch.load(place / BEST, weights_only=True) for place in (folder, whole[2])]
    assert same(*best)


@pytest.mark.parametrize("fail_at", [1, 4, 5, 7])
def test_resuming_after_a_kill_is_bit_equal_to_an_uninterrupted_run(whole, tmp_path, fail_at):
    with pytest.raises(RuntimeError, match="killed"):
        fit(Toy(fail_at=fail_at), PLAN, tmp_path / "run")
    assert (tmp_path / "run" / CHECKPOINT).exists() == (fail_at > 1)
    recipe = Toy(init=0 if fail_at == 1 else 123)  # other start weights: all of them must come from the checkpoint
    outcome = fit(recipe, PLAN, tmp_path / "run")
    assert len(recipe.modes) == 8 - fail_at // 2 * 2  # went on from the newest evaluation
    assert_same_run(whole, recipe, outcome, tmp_path / "run")


def test_kill_between_best_weights_and_checkpoint(whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_draw", lambda recipe, state, path: 1 / (state.step != 6))
        with pytest.raises(ZeroDivisionError):
            fit(Toy(), PLAN, folder)
    recipe = Toy(init=123)
    assert_same_run(whole, recipe, fit(recipe, PLAN, folder), folder)


def test_a_longer_run_goes_on_from_a_finished_one(whole, tmp_path):
    fit(Toy(), replace(PLAN, steps=4), tmp_path / "run")
    recipe = Toy(init=123)
    outcome = fit(recipe, PLAN, tmp_path / "run")
    assert len(recipe.modes) == 4
    assert_same_run(whole, recipe, outcome, tmp_path / "run")


def test_the_schedule_of_a_resumed_run_is_that_of_the_new_length(tmp_path):
    short, long = (Plan(steps=n, warmup=0, learning_rate=0.1, evaluate_every=2) for n in (4, 8))
    fit(Toy(), short, tmp_path)
    rows = fit(Toy(), long, tmp_path).history
    assert [row["learning_rate"] for row in rows] == [short.rate(1), short.rate(3), long.rate(5), long.rate(7)]


def test_a_finished_run_is_not_trained_again(whole):
    recipe = Toy(init=123)
    outcome = fit(recipe, PLAN, whole[2])
    assert not recipe.modes
    assert not recipe.evaluated
    assert timeless(outcome.history) == timeless(whole[1].history)
    assert outcome.best["step"] == whole[1].best["step"]
    assert same(recipe.model.state_dict(), whole[0].model.state_dict())


def test_without_resume_the_run_begins_anew(whole, tmp_path):
    recipe = Toy(init=0)
    outcome = fit(recipe, PLAN, whole[2], resume=False)
    assert len(recipe.modes) == 8
    assert timeless(outcome.history) == timeless(whole[1].history)


def test_without_resume_nothing_of_the_old_run_is_left(whole):
    with pytest.raises(RuntimeError, match="killed"):
        fit(Toy(fail_at=0), PLAN, whole[2], resume=False, identity={"data": "other"})
    assert list(whole[2].iterdir()) == []


def test_same_seed_same_bytes_and_another_seed_another_run(whole, tmp_path):
    again, other = Toy(), Toy()
    torch.manual_seed(4711)  # what happened before does not matter
    outcome = fit(again, PLAN, tmp_path / "again")
    assert_same_run(whole, again, outcome, tmp_path / "again")
    weights = [trainer_bytes(place / BEST) for place in (whole[2], tmp_path / "again")]
    assert weights[0] == weights[1]
    fit(other, replace(PLAN, seed=6), tmp_path / "other")  # the toy's data are the same: only dropout differs
    assert not same(other.model.state_dict(), whole[0].model.state_dict())


def trainer_bytes(path):
    """Names, types and raw bytes of saved weights."""
    return [(name, str(v.dtype), v.numpy().tobytes()) for name, v in torch.load(path, weights_only=True).items()]


def test_evaluating_does_not_disturb_the_training(tmp_path):
    last = []
    for every in (1, 8):
        fit(Toy(), replace(PLAN, evaluate_every=every), tmp_path / str(every))
        last.append(saved(tmp_path / str(every)))
    assert deep_equal(last[0]["model"], last[1]["model"])
    assert deep_equal(last[0]["averaged"], last[1]["averaged"])


@pytest.mark.parametrize(
    ("seed", "identity", "match"),
    [
        (5, {"data": "b", "width": 8}, r"data was a, now b"),
        (5, {"data": "a", "width": 16}, r"width was 8, now 16"),
        (5, {"data": "a", "width": 8, "init": "gabor"}, r"init was None, now gabor"),
        (6, {"data": "a", "width": 8}, r"seed was 5, now 6"),
    ],
)
def test_another_runs_folder_is_refused_and_left_alone(tmp_path, seed, identity, match):
    fit(Toy(), PLAN, tmp_path, identity={"data": "a", "width": 8})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=match) as caught:
        fit(Toy(), replace(PLAN, seed=seed), tmp_path, identity=identity)
    assert tmp_path.name in str(caught.value)
    assert "restart" in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_identity_may_hold_what_json_changes(tmp_path):
    identity = {"depths": (1, 2), "folder": tmp_path, "b": {"z": 1, "a": None}}
    fit(Toy(), replace(PLAN, steps=2), tmp_path, identity=identity)
    fit(Toy(), PLAN, tmp_path, identity=dict(reversed(identity.items())))
    assert len(lines(tmp_path)) == 4


@pytest.mark.parametrize("damage", ["empty", "text", "half", "other", "part", "flipped"])
def test_damaged_checkpoint(tmp_path, damage):
    fit(Toy(), PLAN, tmp_path)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    if damage == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    elif damage == "part":
        saved = torch.load(path, weights_only=True)
        torch.save({key: value for key, value in saved.items() if key != "model"}, path)
    else:
        path.write_bytes(
            {"empty": b"", "text": b"no checkpoint", "half": whole[: len(whole) // 2], "flipped": b"\0" * 100}[damage]
        )
    with pytest.raises(InputError, match="no checkpoint that can be resumed") as caught:
        fit(Toy(), PLAN, tmp_path)
    assert caught.value.path == str(path)
    assert "restart" in caught.value.fix
    assert len(fit(Toy(), PLAN, tmp_path, resume=False).history) == 4


def test_best_weights_of_an_earlier_run_are_not_taken_for_ours(tmp_path):
    fit(Toy(), PLAN, tmp_path)
    for name in (CHECKPOINT, METRICS):
        (tmp_path / name).unlink()
    fit(Toy(), replace(PLAN, steps=1, evaluate_every=1), tmp_path)
    kept = torch.load(tmp_path / BEST, weights_only=True)
    again = tmp_path / "again"
    fit(Toy(), replace(PLAN, steps=1, evaluate_every=1), again)
    assert deep_equal(kept, torch.load(again / BEST, weights_only=True))


def test_damaged_best_weights(tmp_path):
    fit(Toy(), PLAN, tmp_path)
    (tmp_path / BEST).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"best\.pt"):
        fit(Toy(), PLAN, tmp_path)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="run"):
        fit(Toy(), PLAN, tmp_path / "run")


def test_loss_that_is_no_number(tmp_path):
    with pytest.raises(FloatingPointError, match=r"nan at step 5.*learning rate"):
        fit(Toy(nan_at=5), PLAN, tmp_path)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["state"]["step"] == 4
    assert all(value.isfinite().all() for value in state["model"].values())


def test_best_weights_are_restored(tmp_path):
    recipe = Toy(scores=(0.2, 0.9, 0.9, 0.5))
    outcome = fit(recipe, PLAN, tmp_path)
    assert (outcome.best["step"], outcome.best["f1"]) == (4, 0.9)  # the first of equals
    assert same(recipe.model.state_dict(), recipe.evaluated[1])
    assert same(torch.load(tmp_path / BEST, weights_only=True), recipe.evaluated[1])
    assert not same(recipe.evaluated[1], recipe.evaluated[3])


def test_a_worse_evaluation_after_resuming_does_not_replace_the_best(tmp_path):
    first = Toy(scores=(0.9, 0.3))
    fit(first, replace(PLAN, steps=4), tmp_path)
    second = Toy(init=9, scores=(0.8, 0.7))
    outcome = fit(second, PLAN, tmp_path)
    assert outcome.best["step"] == 2
    assert same(second.model.state_dict(), first.evaluated[0])


def test_an_undefined_score_is_never_the_best_and_null_in_the_lines(tmp_path):
    recipe = Toy(scores=(float("nan"), 0.4, 0.6, float("nan")))
    outcome = fit(recipe, PLAN, tmp_path)
    assert outcome.best["step"] == 6
    assert same(recipe.model.state_dict(), recipe.evaluated[2])
    assert [row["f1"] for row in lines(tmp_path)] == [None, 0.4, 0.6, None]


@pytest.mark.parametrize("average", [0.0, 0.3, 0.995])
def test_running_average(tmp_path, average):
    recipe, current = Toy(), []
    start = copy(recipe.model)
    fit(recipe, replace(PLAN, average=average), tmp_path, progress=lambda *_: current.append(copy(recipe.model)))
    expected = {name: value.double() for name, value in start.items()}
    for step, now in enumerate(current):
        decay = min(average, (1 + step) / (10 + step))
        for name, value in now.items():
            whole = not value.is_floating_point()  # counters are copied
            expected[name] = value.double() if whole else decay * expected[name] + (1 - decay) * value.double()
    measured = recipe.evaluated[-1]
    for name, value in expected.items():
        torch.testing.assert_close(measured[name].double(), value, rtol=1e-5, atol=1e-6)
    if average == 0:
        assert same(measured, current[-1])
    else:
        assert not same(measured, current[-1])


def test_steps_follow_the_schedule_and_clip_the_gradient(tmp_path, monkeypatch):
    norms = []
    step_of = torch.optim.AdamW.step

    def spy(self, *args):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append((self.param_groups[0]["lr"], float(torch.cat([g.flatten() for g in grads]).norm())))
        return step_of(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    plan = Plan(steps=6, warmup=2, learning_rate=0.1, evaluate_every=3, clip=0.01)
    recipe = Toy()
    fit(recipe, plan, tmp_path / "clipped")
    assert [rate for rate, _ in norms] == [plan.rate(step) for step in range(6)]
    assert max(norm for _, norm in norms) <= 0.01 * (1 + 1e-4)
    assert recipe.modes == [True] * 6
    norms.clear()
    fit(Toy(), replace(plan, clip=0), tmp_path / "free")
    assert max(norm for _, norm in norms) > 0.1


def test_lines_and_progress(tmp_path):
    told = []
    outcome = fit(Toy(), replace(PLAN, steps=5), tmp_path, progress=lambda *args: told.append(args))
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == [2, 4, 5]  # the end is evaluated although it is no multiple
    assert list(outcome.history) == rows
    assert rows[1].keys() == {"step", "loss", "learning_rate", "f1", "other", "seconds"}
    assert rows[0]["learning_rate"] == PLAN.rate(1)
    assert [(step, steps) for step, steps, _ in told] == [(n, 5) for n in range(1, 6)]
    assert rows[0]["loss"] == pytest.approx((told[0][2]["loss"] + told[1][2]["loss"]) / 2)
    assert "f1" not in told[1][2]
    assert told[2][2]["f1"] == rows[0]["f1"]
    assert outcome.seconds > 0
    assert not outcome.interrupted


def test_curve_is_written(tmp_path):
    fit(Toy(), replace(PLAN, steps=4), tmp_path)
    with Image.open(tmp_path / CURVE) as picture:
        assert np.ptp(np.asarray(picture.convert("L"))) > 100
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, BEST, METRICS, CURVE}


@pytest.mark.parametrize(("fail_at", "evaluations"), [(0, 0), (5, 2)])
def test_ctrl_c(whole, tmp_path, fail_at, evaluations):
    folder = tmp_path / "run"
    recipe = Toy(fail_at=fail_at, error=KeyboardInterrupt())
    outcome = fit(recipe, PLAN, folder)
    assert outcome.interrupted
    assert len(outcome.history) == evaluations
    assert outcome.best == (max(outcome.history, key=lambda row: row["f1"]) if evaluations else {})
    if evaluations:
        assert same(recipe.model.state_dict(), torch.load(folder / BEST, weights_only=True))
    resumed = Toy()
    assert_same_run(whole, resumed, fit(resumed, PLAN, folder), folder)


def history(*scores, every=10):
    return [{"step": every * (i + 1), "f1": score} for i, score in enumerate(scores)]


def test_stall_warning():
    plan, recipe = Plan(steps=100, warmup=20, learning_rate=1, evaluate_every=10), Toy()
    assert stall(recipe, plan, State()) == []
    assert stall(recipe, plan, State(step=20, history=history(0.1, 0.1))) == []  # still warming up
    found = stall(recipe, plan, State(step=40, history=history(0.1, 0.1, 0.3, 0.2)))
    assert len(found) == 1
    assert "stalled" in found[0]
    assert "f1 is 0.200" in found[0]
    assert "below 0.5" in found[0]
    assert stall(recipe, plan, State(step=40, best_step=30, history=history(0.1, 0.1, 0.5, 0.2))) == []


def test_no_progress_warning():
    plan, recipe = Plan(steps=400, warmup=0, learning_rate=1, evaluate_every=10), Toy()
    rows = history(0.8, *[0.7] * 10)
    assert stall(recipe, plan, State(step=110, best_step=10, history=rows)) == []
    found = stall(recipe, plan, State(step=120, best_step=10, history=[*rows, {"step": 120, "f1": 0.7}]))
    assert found == ["no better f1 since step 10: more steps are unlikely to help"]


def test_warnings_reach_the_outcome(tmp_path):
    plan = replace(PLAN, warmup=2)
    assert "stalled" in fit(Toy(scores=(0.1,) * 4), plan, tmp_path / "a").warnings[0]
    assert fit(Toy(scores=(0.1, 0.6, 0.7, 0.8)), plan, tmp_path / "b").warnings == ()


def test_eps_reaches_the_optimizer(tmp_path):
    """Adam's step is rate * m / (sqrt(v) + eps): with a huge eps nothing moves (the decay is off)."""
    moved = []
    for name, eps in (("small", 1e-8), ("huge", 1e9)):
        toy = Toy()
        start = [value.detach().clone() for value in toy.model.parameters()]
        fit(toy, replace(PLAN, eps=eps, weight_decay=0.0), tmp_path / name)
        moved.append(
            max(float((a - b.detach()).abs().max()) for a, b in zip(start, toy.model.parameters(), strict=True))
        )
    assert moved[0] > 1e-2
    assert moved[1] < 1e-6


class Sums:
    """Its loss is a mean over samples: what gradient accumulation is exact for."""

    score = "f1"
    stalled_below = ("f1", -9.0)

    def __init__(self, batch):
        torch.manual_seed(0)
        self.model, self.batch = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1)), batch

    def loss(self, step):
        places = range(step * self.batch, (step + 1) * self.batch)
        x = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(place)) for place in places])
        return (self.model(x)[:, 0] - x.sum(1)).square().mean()

    def evaluate(self, model):
        return {"f1": -float(self.loss(1000))}


def test_accumulated_batches_are_one_larger_batch(tmp_path):
    whole, parts = Sums(12), Sums(4)
    one = fit(whole, PLAN, tmp_path / "whole")
    other = fit(parts, replace(PLAN, accumulate=3), tmp_path / "parts")
    assert [row["loss"] for row in other.history] == pytest.approx([row["loss"] for row in one.history], rel=1e-5)
    for name, value in saved(tmp_path / "whole")["model"].items():
        torch.testing.assert_close(saved(tmp_path / "parts")["model"][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_computes_in_half_and_resumes_exactly(tmp_path, amp):
    plan, seen = replace(PLAN, amp=amp, accumulate=2), set()
    recipe = Toy()
    recipe.model[0].register_forward_hook(
        lambda module, inputs, out: seen.add((torch.is_autocast_enabled("cpu"), out.dtype))
    )
    outcome = fit(recipe, plan, tmp_path / "whole")
    half = torch.bfloat16 if amp == "bf16" else torch.float16
    assert seen == {(True, half), (False, torch.float32)}  # evaluations are whole
    full = fit(Toy(), replace(plan, amp="off"), tmp_path / "full")
    assert outcome.history[-1]["loss"] == pytest.approx(full.history[-1]["loss"], rel=0.1)
    assert outcome.history[-1]["loss"] != full.history[-1]["loss"]
    with pytest.raises(RuntimeError, match="killed"):
        fit(Toy(fail_at=11), plan, tmp_path / "run")
    resumed = Toy(init=123)
    again = fit(resumed, plan, tmp_path / "run")
    assert_same_run((recipe, outcome, tmp_path / "whole"), resumed, again, tmp_path / "run")
    assert bool(saved(tmp_path / "run")["scaler"]) is (amp == "fp16")


def test_steps_whose_half_gradients_overflow_are_told(tmp_path):
    def skipped(amp):
        recipe = Toy()
        start = copy(recipe.model)["0.weight"]
        fit(recipe, replace(PLAN, amp=amp, steps=2, warmup=0), tmp_path / amp)
        taken = not torch.equal(saved(tmp_path / amp)["model"]["0.weight"], start)
        return taken, saved(tmp_path / amp)["state"]["skipped"]

    assert skipped("bf16") == (True, 0)
    assert skipped("fp16") == (False, 2)  # the scale begins at 65536, and this loss is large
    outcome = fit(Toy(), replace(PLAN, amp="fp16"), tmp_path / "run")
    assert any(" of 8 steps were skipped: their float16 gradients overflowed" in text for text in outcome.warnings)
