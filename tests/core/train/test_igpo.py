"""The recipe of IGPO: the task, groups and what rescues them, judges, runs that go on, and models of others."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_languages import SIZES, letters

from attn.core.errors import InputError, LossError, UsageError
from attn.core.fit import loop as trainer
from attn.core.nets.masked_diffusion import MaskedDiffusionTransformer
from attn.core.options import OptionError, build
from attn.core.train.igpo import large, stages
from attn.core.train.igpo.estimate import filtered, mask_ratios
from attn.core.train.igpo.export import SHAPE, read_small
from attn.core.train.igpo.objective import ClippedObjective, terms
from attn.core.train.igpo.options import IGPOOptions, complete_options
from attn.core.train.igpo.policy import Policy
from attn.core.train.igpo.rollout import Sampler, roll_out
from attn.core.train.igpo.run import train_igpo
from attn.core.train.igpo.sums import END, MASK, Sums, decode, encode, sum_question, verify
from attn.core.train.igpo.verify import boxed, by_function, by_pattern, in_box, plain_latex

SMALL = {
    "sft_steps": 2, "sft_batch": 4, "steps": 2, "questions": 1, "group": 2, "judged": 2, "evaluate_every": 1,
    "completion": 24, "sampling_steps": 4, "device": "cpu", "threads": 1,
}  # fmt: skip


def options(folder: Path, **changes: Any) -> IGPOOptions:
    return build(IGPOOptions, SMALL | {"output": folder} | changes)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)


def test_sums_are_right_and_what_is_judged_is_never_trained() -> None:
    carry = sum_question(37, 58)
    assert (decode(carry.solution), decode(carry.trace), carry.kind) == ("7+8=15;3+5+1=9|95", "7+8=15;3+5+1=9", "carry")
    assert decode(sum_question(31, 25, (2, 1)).solution) == "1+5=6;1+5=6;3+2=5|56"
    assert decode((*carry.solution, END, MASK)) == "7+8=15;3+5+1=9|95"
    assert verify("7+8=15|95", "95").correct
    assert not verify("95", "95").correct
    sums = Sums(1, 8, long=False, hint_answer=False)
    assert [question.kind for question in sums.test] == ["carry"] * 8 + ["no_carry"] * 8
    held_out = {question.text for question in (*sums.test, *sums.development)}
    drawn = [question for step in range(20) for question in (*sums.traces(step, 50), *sums.questions(step, 50))]
    assert not held_out & {question.text for question in drawn}
    assert 0.3 < sum(question.kind == "carry" for question in drawn) / len(drawn) < 0.5
    assert sums.questions(3, 5) == Sums(1, 8, long=False, hint_answer=False).questions(3, 5)
    long = Sums(1, 8, long=True, hint_answer=False).traces(0, 200)
    assert max(len(question.solution) for question in long) > 40


class Scripted:
    """Every completion is what its row says; with a hint, it is right."""

    mask_id, eos_id = MASK, END

    def __init__(self, right: str) -> None:
        self.right = encode(right)

    def logits(self, tokens: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        assert positions is not None
        hinted = (tokens[:, positions] != MASK).any(1)
        wanted = torch.tensor([*self.right, *[END] * (len(positions) - len(self.right))])
        answers = torch.where(hinted[:, None], wanted, torch.tensor(encode("0")[0]))
        return 1e4 * torch.nn.functional.one_hot(answers, 16).float()


@pytest.mark.parametrize("method", ["igpo", "grpo", "resample"])
def test_hints_rescue_a_group_all_wrong_and_nothing_else_does(method: str) -> None:
    question = sum_question(37, 58)
    policy: Any = Scripted("7+8=15;3+5+1=9|95")
    chosen = complete_options(build(IGPOOptions, {"output": Path("."), "sampling_steps": 1, "replace": 3}))
    task = Sums(1, 4, long=False, hint_answer=False)
    found = roll_out(policy, task, [question], method, Sampler.of(chosen), 5, torch.device("cpu"))
    assert (found.all_wrong, found.all_right) == (1, 0)
    assert found.drawn == (8 if method == "grpo" else 16)
    if method == "igpo":
        assert found.rescued == 1
        assert found.hints.any(1).tolist() == [True] * 3 + [False] * 5
        assert found.correct.tolist() == [True] * 3 + [False] * 5
        torch.testing.assert_close(found.advantage, torch.tensor([0.625] * 3 + [-0.375] * 5))
        trace = torch.tensor([*question.trace, *[-1] * (24 - len(question.trace))]).expand(8, -1)
        assert bool((found.tokens[:, 6:] == trace)[found.hints].all())
        assert not bool(found.hints[:, -3:].any())
    else:
        assert found.rescued == 0
        assert not found.hints.any()
        assert not found.advantage.any()


def test_the_filter_keeps_the_least_sure_hints() -> None:
    masked = torch.tensor([[True, True, True, True, False, True]])
    hints = torch.tensor([[True, True, True, False, True, False]])
    entropy = torch.tensor([[0.1, 0.9, 0.5, 0.2, 5.0, 0.3]])
    assert filtered(masked, hints, entropy, 0.2).tolist() == [[False, True, False, True, False, True]]
    assert filtered(masked, hints, entropy, 0.7).tolist() == [[False, True, True, True, False, True]]
    assert torch.equal(filtered(masked, hints, entropy, 1.0), masked)
    assert torch.equal(filtered(masked, ~masked, entropy, 0.2), masked)


def test_the_filtered_ratio_is_of_what_is_seen_alone() -> None:
    new, old = torch.tensor([[0.3, 5.0]]), torch.tensor([[0.2, 0.0]])
    seen, one = torch.tensor([[True, False]]), torch.ones(1)
    found = terms(new, old, None, one, seen, ClippedObjective("sequence-filtered", beta=0))
    assert abs(float(found.ratio / found.weight) - 1.10517) < 1e-4
    assert float(terms(new, old, None, one, ~seen & False, ClippedObjective("sequence-filtered", beta=0)).value) == 0
    shares = mask_ratios(3, 64, torch.Generator().manual_seed(1))
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_reference_stays_while_the_policy_moves() -> None:
    torch.manual_seed(0)
    policy = Policy(MaskedDiffusionTransformer(SHAPE), MASK, END)
    tokens = torch.randint(0, 14, (2, 10))
    begun = policy.logits(tokens)
    with torch.no_grad():
        for parameter in policy.trained.parameters():
            parameter.add_(0.01)
    torch.testing.assert_close(policy.reference(tokens), begun.detach())
    assert not torch.allclose(policy.logits(tokens), begun)
    policy.load(policy.start)
    torch.testing.assert_close(policy.logits(tokens), begun)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\dfrac{1}{2}", "\\frac{1}{2}"), ("1,000", "1000"), ("42.", "42"), ("$ 5 $", "5"), (".5", "0.5"),
        ("\\text{Monday}", "Monday"), ("50\\%", "50"), ("7.00", "7"), ("x \\left( y \\right)", "x(y)"),
    ],
)  # fmt: skip
def test_answers_that_look_different_are_one(one: str, other: str) -> None:
    assert plain_latex(one) == plain_latex(other)


def test_rewards_of_the_box_and_its_format() -> None:
    good = "<reasoning>\na\n</reasoning>\n<answer>\nit is \\boxed{\\frac{1}{2}}\n</answer>"
    assert boxed(good) == "\\frac{1}{2}"
    assert in_box("q", good, "\\dfrac{1}{2}") == (True, 3.75)
    assert in_box("q", good + "</answer>", "3") == (False, 0.625)
    assert in_box("q", "\\boxed{1", "1") == (False, 0.25)
    assert by_pattern(r"= (\d+)")("q", "a = 1, b = 2", "2").correct
    assert not by_pattern(r"= (\d+)")("q", "nothing", "2").correct


def test_a_verifier_of_ones_own_is_not_believed_blindly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checks_of_test.py").write_text(
        "def right(prompt, completion, answer): return completion == answer\n"
        "def graded(prompt, completion, answer): return 0.5\n"
        "def text(*_): return 'yes'\n"
        "def nothing(*_): return None\n"
        "def nan(*_): return float('nan')\n"
        "def raises(*_): raise KeyError('x\\ny')\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert by_function("checks_of_test:right")("q", "4", "4") == (True, 1.0)
    assert by_function("checks_of_test:graded")("q", "4", "4") == (True, 0.5)
    for name, message in {"text": "'yes'", "nothing": "None", "nan": "nan", "raises": "KeyError"}.items():
        with pytest.raises(UsageError, match=f"checks_of_test:{name}.*{message}.*goes on") as error:
            by_function(f"checks_of_test:{name}")("q", "4", "4")
        assert "\n" not in str(error.value)
    for name, message in {"number": "no function", "missing": "cannot be imported"}.items():
        with pytest.raises(OptionError, match=message):
            by_function(f"checks_of_test:{name}")
    assert str(tmp_path) not in sys.path


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_igpo(options(tmp_path / "whole"))
    assert [row["policy"] for row in whole.sections[0].rows()] == ["start", "igpo", "grpo", "resample"]
    assert whole.items[0].metrics["igpo_groups"] == whole.items[0].metrics["grpo_groups"] == 2
    draw, rollouts = stages.roll_out, iter(range(30))

    def until(*given: Any) -> Any:
        if next(rollouts) == 3:
            raise KeyboardInterrupt
        return draw(*given)

    monkeypatch.setattr(stages, "roll_out", until)
    assert train_igpo(options(tmp_path / "stopped")).left
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    monkeypatch.setattr(stages, "roll_out", draw)
    went_on = train_igpo(options(tmp_path / "stopped"))
    metrics = [{k: v for k, v in report.items[0].to_dict()["metrics"].items()} for report in (went_on, whole)]
    assert metrics[0] == metrics[1]
    models = [read_small(tmp_path / name / "model.safetensors").state_dict() for name in ("whole", "stopped")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert "| igpo |" in (tmp_path / "whole" / "model.md").read_text()
    with pytest.raises(OptionError, match="another run"):
        train_igpo(options(tmp_path / "whole", entropy_keep=1.0))
    onward = options(tmp_path / "on", weights=tmp_path / "whole" / "model.safetensors", sft_steps=0, methods="grpo")
    assert train_igpo(onward).items[0].status == "ok"


def test_a_loss_that_is_no_number_stops_and_keeps_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_igpo(options(tmp_path / "run", methods="igpo", steps=1))
    kept = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(stages, "log_probabilities", lambda logits, targets: logits.sum(-1) * float("nan"))
    with pytest.raises(LossError, match="lower the learning rate"):
        train_igpo(options(tmp_path / "run", methods="igpo", steps=2))
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == kept


def test_planting_alone_is_shown(tmp_path: Path) -> None:
    report = train_igpo(options(tmp_path / "run", dry_run=3, hint_least=1.0, hint_most=1.0))
    passages = [section for section in report.items[0].sections if section.kind == "passage"]
    assert len(passages) == 3
    assert {kind for _, kind in passages[0].spans} == {"prompt", "planted", "masked"}
    assert "⟨" in "".join(text for text, _ in passages[0].marked)
    rows = [json.loads(line) for line in (tmp_path / "run" / "planted.jsonl").read_text().splitlines()]
    assert all(row["planted_tokens"] == len(row["positions"]) > 0 for row in rows)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


LLADA = {
    "model_type": "llada", "d_model": 32, "mlp_hidden_size": 48, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1,
    "rms_norm_eps": 1e-5, "max_sequence_length": 256, "rope_theta": 5e5, "vocab_size": SIZES["vocab_size"],
    "embedding_size": SIZES["vocab_size"], "mask_token_id": 0, "eos_token_id": 1, "weight_tying": False,
    "block_type": "llama", "include_bias": False,
}  # fmt: skip


@pytest.fixture
def llada(tmp_path: Path) -> Path:
    """A folder as LLaDA's, with random weights under LLaDA's names."""
    from safetensors.torch import save_file

    folder = tmp_path / "llada"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLADA))
    letters().save_pretrained(folder)
    generator, width, hidden, vocabulary = torch.Generator().manual_seed(3), 32, 48, SIZES["vocab_size"]
    sizes = {"wte": (vocabulary, width), "ff_out": (vocabulary, width), "ln_f": (width,)}
    for n in range(2):
        block = {
            "attn_norm": (width,), "ff_norm": (width,), "q_proj": (width, width), "k_proj": (width // 2, width),
            "v_proj": (width // 2, width), "attn_out": (width, width), "ff_proj": (hidden, width),
            "up_proj": (hidden, width), "ff_out": (width, hidden),
        }  # fmt: skip
        sizes |= {f"blocks.{n}.{name}": size for name, size in block.items()}
    state = {f"model.transformer.{n}.weight": 0.3 * torch.randn(size, generator=generator) for n, size in sizes.items()}
    parts = {f"model-0000{n + 1}-of-00002.safetensors": dict(list(state.items())[n::2]) for n in range(2)}
    for name, part in parts.items():
        save_file(part, folder / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {weight: name for name, part in parts.items() for weight in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "asked.jsonl"
    rows = [
        {"prompt": f"{n}+{n}?", "reasoning": f"{n} and {n} are {2 * n}\n#### {2 * n}", "answer": 2 * n}
        for n in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def of_model(folder: Path, llada: Path, asked: Path, **changes: Any) -> IGPOOptions:
    given = {
        "model": str(llada), "data": asked, "lora": 0, "completion": 16, "block": 8, "sampling_steps": 4,
        "free_tail": 2, "chunk_least": 2, "chunk_most": 4, "instruction": "", "inner": 2, "learning_rate": 1e-3,
    }  # fmt: skip
    return options(folder, **given | changes)


def test_a_llada_sees_both_sides_and_becomes_a_folder_again(tmp_path: Path, llada: Path, asked: Path) -> None:
    chosen = of_model(tmp_path / "run", llada, asked, sft_steps=1, answer_pattern=r"(\d+)$")
    model = large.LargeModel(complete_options(chosen))
    policy = model.load(0, torch.float32, torch.device("cpu"))
    tokens = torch.randint(2, 40, (2, 12))
    other = tokens.clone()
    other[:, -1] += 1
    with torch.no_grad():
        assert not torch.allclose(policy.logits(tokens)[:, 0], policy.logits(other)[:, 0])
        some = torch.tensor([2, 5])
        torch.testing.assert_close(policy.logits(tokens, some), policy.logits(tokens)[:, some])
    report = train_igpo(chosen)
    assert report.items[0].status == "ok"
    assert "igpo_accuracy" in report.items[0].metrics
    assert any("final answer is never planted" in notice for notice in report.notices)
    again = large.LargeModel(complete_options(replace(chosen, source=replace(chosen.source, model=str(chosen.output)))))
    reread = again.load(0, torch.float32, torch.device("cpu"))
    best = torch.load(tmp_path / "run" / "best.pt")
    torch.testing.assert_close(reread.weights()["model.lm_head.weight"], best["model/lm_head/weight"])


def llada_logits(state: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """LLaDA's equations for one sequence int64 [L], head by head: RMSNorm, rotary positions, full attention, SwiGLU."""
    weight = {name.removeprefix("model.transformer.").removesuffix(".weight"): value for name, value in state.items()}
    length, heads, size = len(tokens), 2, 16
    angle = torch.arange(length)[:, None] * 5e5 ** (-torch.arange(0, size, 2) / size)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight[name]

    def turned(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    x = weight["wte"][tokens]
    for block in (f"blocks.{n}." for n in range(2)):
        y = norm(x, block + "attn_norm")
        q, k, v = (y @ weight[f"{block}{name}_proj"].T for name in "qkv")
        out = [
            (turned(part) @ turned(k).T / size**0.5).softmax(-1) @ v  # both heads share one key and value
            for part in q.split(size, -1)
        ]
        assert len(out) == heads
        x = x + torch.cat(out, -1) @ weight[block + "attn_out"].T
        y = norm(x, block + "ff_norm")
        gate = torch.nn.functional.silu(y @ weight[block + "ff_proj"].T)
        x = x + (gate * (y @ weight[block + "up_proj"].T)) @ weight[block + "ff_out"].T
    return norm(x, "ln_f") @ weight["ff_out"].T


def test_a_llada_computes_what_its_equations_say(tmp_path: Path, llada: Path, asked: Path) -> None:
    from safetensors.torch import load_file

    state = {name: value for path in llada.glob("*.safetensors") for name, value in load_file(path).items()}
    model = large.LargeModel(complete_options(of_model(tmp_path / "run", llada, asked)))
    policy = model.load(0, torch.float32, torch.device("cpu"))
    tokens = torch.randint(0, SIZES["vocab_size"], (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for row, logits in zip(tokens, policy.logits(tokens), strict=True):
            torch.testing.assert_close(logits, llada_logits(state, row), atol=1e-4, rtol=1e-4)


def test_adapters_alone_are_trained(tmp_path: Path, llada: Path, asked: Path) -> None:
    pytest.importorskip("peft")
    report = train_igpo(of_model(tmp_path / "run", llada, asked, lora=2))
    assert report.items[0].status == "ok"
    kept = torch.load(tmp_path / "run" / "best.pt")
    assert all("lora" in name for name in kept)


def test_without_peft_adapters_are_refused_in_one_line(
    tmp_path: Path, llada: Path, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"attn\[lora\]"):
        train_igpo(of_model(tmp_path / "run", llada, asked, lora=2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no questions"),
        ('{"prompt": "a", "answer": "b"}', "line 1 has no reasoning"),
        ('{"prompt": "a", "reasoning": " ", "answer": "b"}', "line 1 has an empty reasoning"),
        ('{"prompt": ["a"], "reasoning": "x", "answer": "b"}', "not a string"),
        ("no json", "no JSON"),
        ('{"prompt": "a", "reasoning": "x", "answer": "b"}', "leave nothing to train on"),
    ],
)
def test_refuses_files(tmp_path: Path, llada: Path, text: str, message: str) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text(text)
    with pytest.raises((InputError, OptionError), match=message):
        train_igpo(of_model(tmp_path / "run", llada, path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 1}, "at least 2"),
        ({"hint_least": 0.9}, "above"),
        ({"block": 7}, "does not divide"),
        ({"sampling_steps": 30}, "at most 24"),
        ({"chunk_least": 5}, "above"),
        ({"free_tail": 23}, "leave no room for a hint"),
        ({"estimate": "structured"}, "32 or more"),
        ({"methods": "ppo"}, "no method named 'ppo'"),
        ({"methods": "igpo,igpo"}, "twice"),
        ({"data": "x.jsonl"}, "needs {?model"),
        ({"model": "x"}, "needs {?data"),
        ({"judged": 700}, "leave less than half"),
        ({"lora": 8}, "needs {?model"),
        ({"completion": 60, "block": 60, "sampling_steps": 30}, "has room for 48"),
        ({"model": "x", "data": "y", "verifier": "checks"}, "no module and function"),
        ({"model": "x", "data": "y", "answer_pattern": "("}, "no regular expression"),
        ({"model": "x", "data": "y", "answer_pattern": "a"}, "0 groups"),
        ({"model": "x", "data": "y", "answer_pattern": "(a)", "verifier": "a:b"}, "one judges"),
        ({"model": "/nowhere/x", "data": "y", "block": 12, "free_tail": 2}, "no model named"),
    ],
)
def test_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        train_igpo(options(tmp_path, **changes))
