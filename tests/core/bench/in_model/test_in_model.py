"""Operators inside a small random model: each figure against its definition, computed another way."""

import dataclasses
import math
import sys

import pytest
import torch
from small_languages import language_folder, letters

from attn.core.attention.contract import Shape
from attn.core.attention.in_models import attention_parameters, register_attention
from attn.core.attention.indexer import hisa
from attn.core.attention.registry import OPERATORS
from attn.core.bench.in_model import run as in_model
from attn.core.bench.in_model.calls import LayerCall
from attn.core.bench.in_model.language import Language
from attn.core.bench.in_model.layers import show_layers
from attn.core.bench.in_model.needles import Needle, haystack
from attn.core.bench.in_model.options import InModel, parse_depths, parse_layers
from attn.core.bench.in_model.overlap import flat_iou, spans
from attn.core.bench.in_model.traffic import layer_bytes
from attn.core.bench.options import BenchOptions
from attn.core.errors import UsageError
from attn.core.models.load import load_model
from attn.core.options import OptionError

TEXT = "".join(f"Line {i}: the quick brown fox {i * i} jumps over a lazy dog.\n" for i in range(40))
N, T = 320, 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    (folder / "text.txt").write_text(TEXT)
    language_folder(folder / "model")
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """One run of each, ceilings not measured."""
    monkeypatch.setattr(in_model.machine, "ceilings", lambda device, dtypes: {"gflops_float32": 100.0})
    from attn.core.bench import timing

    monkeypatch.setattr(timing, "SLOW", 0.0)
    monkeypatch.setattr(sys.modules["attn.core.bench.in_model.trial"], "PILOT", 64)


def run(place, *operators, lengths=(N,), budget=None, settings=None, **inside):
    options = BenchOptions(
        operators=operators, lengths=lengths, budget=budget, settings=settings or {}, threads=1, device="cpu",
        inside=InModel(model=str(place / "model"), text=place / "text.txt", **{"tokens": T, "depths": (), **inside}),
    )  # fmt: skip
    report = in_model.run(options)
    return {item.input: item for item in report.items}, report


HISA = {"hisa": {"top_k": 24, "block_size": 16, "top_blocks": 4}}


@pytest.fixture(scope="module")
def plain(place):
    """The model as transformers runs it, on the first N - T tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(place / "model").eval()
    return model, letters()(TEXT)["input_ids"][:N]


def by_hand(model, ids):
    """Perplexity, the most probable next tokens, and what generate writes."""
    with torch.no_grad():
        prompt = torch.tensor([ids[: N - T]])
        logits = model(input_ids=prompt).logits[0].double()
        nll = torch.nn.functional.cross_entropy(logits[:-1], prompt[0, 1:])
        written = model.generate(prompt, max_new_tokens=T, min_new_tokens=T, do_sample=False)[0, N - T :]
    return math.exp(nll), logits.argmax(-1), written.tolist()


def test_figures_are_those_of_transformers_run_by_hand(place, plain):
    model, ids = plain
    items, report = run(place, "hisa", settings=HISA, dense_layers=(1,))
    perplexity, best, written = by_hand(model, ids)
    base, tried = items[f"sdpa @ {N}"], items[f"hisa @ {N}"]
    assert report.exit_code == 0
    assert base.metrics["perplexity"] == pytest.approx(perplexity, rel=1e-5)
    assert "greedy_agreement" not in base.metrics
    register_attention()
    model.set_attn_implementation("attn:hisa")
    try:
        with attention_parameters(dense_layers=(1,), **HISA["hisa"]):
            other, others_best, others_written = by_hand(model, ids)
    finally:
        model.set_attn_implementation("sdpa")
    assert tried.metrics["perplexity"] == pytest.approx(other, rel=1e-5)
    assert tried.metrics["perplexity"] != pytest.approx(perplexity, rel=1e-5)
    assert tried.metrics["perplexity_ratio"] == pytest.approx(other / perplexity, rel=1e-5)
    assert tried.metrics["argmax_agreement"] == pytest.approx((best == others_best).double().mean().item())
    assert tried.metrics["greedy_agreement"] == sum(a == b for a, b in zip(written, others_written, strict=True)) / T
    assert tried.metrics["layers_run"] == 2
    for name in ("prefill_seconds", "decode_ms", "prefill_speedup", "decode_speedup"):
        assert tried.metrics[name] > 0


def test_at_full_budget_an_operator_changes_nothing(place):
    items, _ = run(place, "dsa", "blocktopk")
    for name in ("dsa", "blocktopk"):
        m = items[f"{name} @ {N}"].metrics
        assert m["perplexity_ratio"] == pytest.approx(1, abs=1e-5)
        assert m["argmax_agreement"] == m["greedy_agreement"] == 1
        assert m["greedy_same"] == T


def test_what_ran_where_is_reported(place):
    _, report = run(place, "hip", dense_layers=(0, 2))
    rows = [row for row in report.to_dict()["summary"]["ran"] if row["phase"] == "prefill"]
    assert {(row["layers"], row["ran"], row["why"]) for row in rows} == {
        ("0,2", "dense", "in dense_layers"), ("1", "hip", ""),
    }  # fmt: skip
    own = next(row for row in report.to_dict()["summary"]["ran"] if row["operator"] == "sdpa")
    assert own["layers"] == "0-2"


def test_parameters_of_decoding_have_their_effect(place):
    items, _ = run(place, "hip", settings={"hip": {"mask_refresh": 4, "mask_k": 32}})
    assert items[f"hip @ {N}"].status == "ok", items[f"hip @ {N}"].error


def test_an_operator_that_ran_nowhere_fails(place):
    items, report = run(place, "hip", dense_layers=(0, 1, 2))
    assert items[f"hip @ {N}"].status == "failed"
    assert "ran in no layer" in items[f"hip @ {N}"].error
    assert report.exit_code == 1


def test_what_is_predicted_to_outrun_the_budget_is_skipped_with_its_prediction(place, monkeypatch):
    monkeypatch.setattr(in_model, "SLOW", 0.0)
    items, _ = run(place, "window+sink", budget=1e-9)
    assert {item.status for item in items.values()} == {"skipped"}
    assert all("predicted" in item.error and "of the budget left" in item.error for item in items.values())


def test_after_an_interruption_what_is_done_is_reported_and_the_rest_named(place, monkeypatch):
    measure = in_model.measure

    def interrupted(bench, trial, base):
        if trial.label == "dsa":
            raise KeyboardInterrupt
        measure(bench, trial, base)

    monkeypatch.setattr(in_model, "measure", interrupted)
    items, report = run(place, "window+sink", "dsa")
    assert set(items) == {f"sdpa @ {N}", f"window+sink @ {N}"}
    assert report.left == (f"dsa @ {N}",)
    assert report.exit_code == 130


def test_needles_are_counted_by_depth_and_skipped_with_a_prediction(place):
    items, report = run(place, "window+sink", lengths=(512,), depths=(0.0, 100.0))
    found = {row["operator"]: row for row in report.to_dict()["summary"]["needles_by_depth"]}
    assert set(found) == {"sdpa", "window+sink"}
    assert set(found["sdpa"]) == {"operator", "seq", "0 %", "100 %"}
    assert items["sdpa @ 512"].metrics["needles"] == 2
    items, _ = run(place, "window+sink", lengths=(256,), depths=(0.0, 50.0, 100.0))
    assert any("no needles at 256: 3 needles and a question are" in text for text in items["sdpa @ 256"].warnings)


def test_the_haystack_is_the_text_with_its_needles_and_fits():
    tokeniser, tokens = letters(), letters()(TEXT)["input_ids"]
    stack = haystack(tokeniser, tokens, 700, (0.0, 50.0, 100.0), 0)
    text = tokeniser.decode(stack.tokens)
    for needle, place in zip(stack.needles, ("London", "Cairo", "Lima"), strict=True):
        hidden = f"\nThe pass key of {place} is {needle.key}. Remember it: {needle.key} is the pass key of {place}.\n"
        assert hidden in text
        text = text.replace(hidden, "")
        assert len(stack.tokens) + len(needle.question) + stack.answer <= 700
    assert TEXT.startswith(text)
    assert len({needle.key for needle in stack.needles}) == 3
    assert [needle.key for needle in haystack(tokeniser, tokens, 700, (0.0,), 1).needles] != [stack.needles[0].key]


def test_a_needle_is_found_by_its_digits_and_no_more():
    needle = Needle(0.0, "48213", [])
    assert needle.found(" 48213.")
    assert needle.found("48213")
    assert not needle.found(" 482135")
    assert not needle.found(" 4821")
    assert not needle.found(" It is 48213")


def call(len_q=200, len_k=200, heads=4, kv=2, dim=32):
    torch.manual_seed(0)
    q, k = torch.randn(1, heads, len_q, dim), torch.randn(1, kv, len_k, dim)
    shape = Shape(1, heads, kv, len_q, len_k, dim, dim, True, 4)
    return LayerCall(q, k, dim, dim**-0.5, None, shape)


def test_flat_iou_is_that_of_the_whole_call():
    params = {"top_k": 12, "block_size": 16, "top_blocks": 3}
    one = call()
    where = spans(200, 48)
    rows = torch.tensor([row for part in where for row in part])
    assert rows.min() == 48
    assert rows.max() < 200
    settings = hisa.Settings(**params)
    chosen = OPERATORS["hisa"].resolve().select(one.q, one.k, causal=True, **params).mask(rows)
    flat = OPERATORS["dsa"].resolve().select(one.q, one.k, causal=True, top_k=settings.top_k).mask(rows)
    share = ((chosen & flat).sum(-1) / (chosen | flat).sum(-1)).double()
    found = flat_iou([dataclasses.replace(one, q=one.q[:, :, rows])], where, params)
    assert found["flat_iou"] == pytest.approx(share.mean().item())
    assert found["flat_iou_min"] == pytest.approx(share.min().item())
    assert found["flat_iou_queries"] == 2 * len(rows)
    assert 0 < found["flat_iou"] < 1
    assert flat_iou([one], spans(40, 48), params) == {}


@pytest.mark.parametrize(
    ("name", "params", "keys", "searched"),
    [
        ("dense", {}, 200, 0),
        ("window+sink", {"window": 32, "num_sinks": 4}, 36, 0),
        ("dsa", {"top_k": 24}, 24, 200),
        ("blocktopk", {"block_size": 16, "top_k": 4}, None, 13),
    ],
)
def test_bytes_read_are_those_of_the_keys_that_are_visited(name, params, keys, searched):
    one = call(len_q=1)
    operator = OPERATORS[name].resolve()
    read = layer_bytes(one, operator, params)
    if keys is None:  # the heads of a group choose blocks each for itself
        mask = operator.select(one.q, one.k, causal=True, **params).mask(torch.zeros(1, dtype=torch.int64))
        kept = int((mask[:, ::2] | mask[:, 1::2]).sum())
    else:
        kept = 2 * keys
    assert read == 4 * (kept * 64 + 2 * searched * 32)
    assert layer_bytes(one, OPERATORS["lightning"].resolve(), {}) is None
    assert layer_bytes(dataclasses.replace(one, window=50), None, {}) == 4 * 2 * 50 * 64


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("Granite", {"logits_scaling": 8.0}),
        ("GPTBigCode", {}),
        ("OPT", {}),
        ("Bart", {"decoder_layers": 2}),
        ("Mixtral", {"num_local_experts": 2}),
    ],
    ids=["a scale", "an output of another class", "a decoder inside its base", "a wrapper as its base", "experts"],
)
def test_the_likelihood_in_pieces_is_that_of_all_logits(tmp_path, kind, sizes):
    language_folder(tmp_path / "m", kind, **sizes)
    loaded = load_model(str(tmp_path / "m"), "causal")
    language, ids = Language(loaded, torch.device("cpu")), letters()(TEXT)["input_ids"][:300]
    assert language.parameters > 0
    found = language.likelihood(ids, language.prefill(ids))
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([ids])).logits[0].double()
    nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
    torch.testing.assert_close(found.nll, nll, rtol=0, atol=1e-5)
    assert torch.equal(found.best, logits.argmax(-1))
    assert found.perplexity(1, 100) == pytest.approx(nll[:99].mean().exp().item(), rel=1e-5)


def test_parameters_of_the_configuration_do_not_count_and_that_is_said(place, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    language_folder(tmp_path / "model", attn_parameters={"top_k": 8, "dense_layers": [0]})
    items, report = run(tmp_path, "dsa")
    plain, _ = run(place, "dsa")
    for key in ("perplexity", "layers_run", "kv_bytes_read"):
        assert items[f"dsa @ {N}"].metrics[key] == pytest.approx(plain[f"dsa @ {N}"].metrics[key])
    assert report.notices == (
        "attn_parameters of the model's configuration do not count here: {'dense_layers': [0], 'top_k': 8}.",
    )


def test_a_model_whose_logits_are_no_numbers_fails(place, monkeypatch):
    load = in_model.load_model

    def spoiled(*args, **given):
        loaded = load(*args, **given)
        loaded.model.model.norm.weight.data.fill_(math.nan)
        return loaded

    monkeypatch.setattr(in_model, "load_model", spoiled)
    items, report = run(place, "dsa")
    assert {item.status for item in items.values()} == {"failed"}
    assert items[f"sdpa @ {N}"].error == f"the model's logits are no numbers at {N - T - 1} of {N - T - 1} tokens"
    assert report.exit_code == 1


@pytest.mark.parametrize("name", ["rectified", "halo"])
def test_operators_that_are_not_causal_are_refused_before_the_model_is_read(place, name, monkeypatch):
    monkeypatch.delattr(in_model, "load_model")
    with pytest.raises(UsageError, match=f"{name} is not causal, as attention inside a language model is"):
        run(place, name)


def test_models_with_windows_of_their_own_keep_them_and_say_so(place, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    language_folder(tmp_path / "model", "Gemma3", layer_types=kinds, sliding_window=32, query_pre_attn_scalar=32)
    items, report = run(tmp_path, "dsa", settings={"dsa": {"top_k": 16}})
    assert items[f"dsa @ {N}"].status == "ok", items[f"dsa @ {N}"].error
    rows = [row for row in report.to_dict()["summary"]["ran"] if row["phase"] == "prefill"]
    assert {(row["layers"], row["ran"]) for row in rows} == {("0,2", "window+sink"), ("1", "dsa")}
    read = items[f"sdpa @ {N}"].metrics["kv_bytes_read"]
    assert read == 4 * 64 * (2 * 32 + N - 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lengths": (8192,)}, "the model was made for 4096 tokens"),
        ({"lengths": (4096,)}, "tokens of this model"),
        ({"lengths": (8,)}, "too short"),
        ({"dense_layers": (7,)}, "the model has no layer 7, its last is 2"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(place, options, words):
    with pytest.raises(UsageError, match=words):
        run(place, "hip", **options)


def test_a_model_that_does_not_fit_into_memory_is_refused_before_it_is_read(place, monkeypatch):
    monkeypatch.setattr("attn.core.models.footprint.budget", lambda: 2**20)
    with pytest.raises(UsageError, match=r"takes about .* more than the budget of memory"):
        run(place, "hip")


def test_options_that_have_no_effect_inside_a_model_are_refused(place):
    inside = InModel(model=str(place / "model"), text=place / "text.txt")
    with pytest.raises(OptionError, match="head_dim has no effect"):
        in_model.run(BenchOptions(operators=("hip",), head_dim=64, inside=inside))
    with pytest.raises(OptionError, match="model is read together with text"):
        InModel(model="m")
    assert BenchOptions(inside=inside).lengths == (1024, 2048, 4096)
    assert BenchOptions(inside=inside).seconds == 540
    assert BenchOptions().seconds == 240


def test_lists():
    assert parse_layers("0,1,28-29") == (0, 1, 28, 29)
    assert show_layers([0, 1, 2, 5]) == "0-2,5"
    assert parse_depths("none") == ()
    assert parse_depths("100,0") == (0.0, 100.0)
    for text in ("a", "3-1", "-1", ""):
        with pytest.raises(ValueError, match="no list of layers"):
            parse_layers(text)
    for text in ("a", "101", "-1"):
        with pytest.raises(ValueError, match="no list of at most"):
            parse_depths(text)


def test_unnamed_operators_are_those_that_approximate_softmax_attention():
    names, left_out = in_model._names(BenchOptions())
    assert {"hip", "dsa", "hisa", "window+sink", "blocktopk", "flux", "superlinear", "oracle"} == set(names)
    assert {"dense", "lightning"} <= set(left_out)
