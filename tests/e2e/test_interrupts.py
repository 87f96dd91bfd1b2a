"""Ctrl-C in commands that are no batch over files: what is done is reported, and what is left is named."""

import json

import pytest


def test_bench(cli, monkeypatch):
    import attn.core.bench.run as bench

    calls = []

    def measured(setup, source, length, seed):
        calls.append(length)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return measured.real(setup, source, length, seed)

    measured.real = bench._measured
    monkeypatch.setattr(bench, "_measured", measured)
    monkeypatch.setattr(bench.machine, "ceilings", lambda *_: {"gflops_float32": 1.0, "copy_gb_s": 1.0})
    ran = cli("bench", "dense", "--seq", "128,256", "--no-memory", "--repeat", "1", "--baseline", "none", "--json")
    assert ran.code == 130
    assert [item["metrics"]["seq_len"] for item in ran.report["items"]] == [128]
    assert ran.report["summary"]["left"] == ["lowrank, 256 tokens, seed 0"]


@pytest.mark.parametrize("args", [["fsgnet", "--data", "."], ["image-text-head", "--data", "x.jsonl"]])
@pytest.mark.parametrize("form", [["--json"], []])
def test_training_before_its_first_step(cli, monkeypatch, args, form):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("attn.core.train.fsgnet.run.find_all_pairs", interrupted)
    monkeypatch.setattr("attn.core.train.image_text_head.run.train_head", interrupted)
    ran = cli("train", *args, "-o", "out", *form)
    assert ran.code == 130
    assert "interrupted, 1 inputs left" in ran.stderr
    if form:
        assert ran.report["summary"]["left"] == [args[0]]


def test_a_prompt_alone(cli, monkeypatch):
    """A command that may be given no inputs has itself left, not nothing."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("attn.core.probe.saliency.run.loaded_model", interrupted)
    ran = cli("probe", "saliency", "--model", "smollm2/", "--prompt", "what is red", "--json")
    assert ran.code == 130
    assert "interrupted, 1 inputs left" in ran.stderr
    assert ran.report["summary"]["left"] == ["saliency"]


def test_bench_before_its_first_measurement(cli, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("attn.core.bench.run.machine.ceilings", interrupted)
    ran = cli("bench", "dense", "--seq", "128")
    assert ran.code == 130
    assert ran.stderr == "attn: interrupted, 1 inputs left\n"


@pytest.mark.parametrize(
    ("args", "where"),
    [
        (["eval", "data"], "attn.core.retrieve.verbs.evaluate.score"),
        (["export", "i", "-o", "o.npz"], "attn.core.retrieve.verbs.export.export"),
        (["compact", "i"], "attn.core.retrieve.verbs.compact.compact"),
    ],
)
def test_verbs_that_cannot_say_how_far_they_came(cli, tmp_path, monkeypatch, args, where):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    ran = cli("retrieve", *args, "--json", "--report", "r.json")
    assert ran.code == 130
    assert ran.report["command"] == "retrieve"
    assert ran.report["summary"]["interrupted"]
    assert json.loads((tmp_path / "r.json").read_text()) == ran.report
    assert ran.stderr == "attn: interrupted\n"
