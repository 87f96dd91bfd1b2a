import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from steps import Steps

from attn.core.bundles import Compute
from attn.core.errors import InputError, UsageError
from attn.core.fit.loop import METRICS
from attn.core.retrieve.gadms.checkpoint import read_checkpoint
from attn.core.retrieve.gadms.gass import gass
from attn.core.retrieve.gadms.people import make_people, write_people
from attn.core.retrieve.gadms.prepare import CLIP_MEAN, augment, normalise
from attn.core.retrieve.gadms.tokenizer import encode
from attn.core.train.ga_dms.data import read_data, synthetic
from attn.core.train.ga_dms.options import FROM_SCRATCH, FROM_WEIGHTS, GADMSOptions, complete
from attn.core.train.ga_dms.run import prepare_run, train_ga_dms, word_means

OPTIONS = GADMSOptions(
    Path("run"), width=16, vision_layers=1, text_layers=2, epochs=2, warmup=1, batch=16,
    compute=Compute(device="cpu", seed=3, threads=1),
)  # fmt: skip
TINY = OPTIONS.architecture()
CPU = torch.device("cpu")


def small(seed=3):
    return synthetic(seed, persons=6, held_out=4)  # 24 captions: two steps an epoch


def test_a_step_writes_scores_and_the_next_epoch_reads_them():
    run = prepare_run(small(), OPTIONS, CPU)
    recipe = run.recipe
    assert recipe.batches.epoch == 2
    before = recipe.model.scores.clone()
    assert torch.unique(before).tolist() == [pytest.approx(0.85, abs=1e-3)]
    batch = recipe.batches(0, before)
    net = recipe.model.net
    with torch.no_grad():
        feature = net.image_feature(batch.images)
    expected = gass(net.base_model, batch.ids, feature, run.gass).half()
    recipe.loss(0)
    written = recipe.model.scores
    assert torch.equal(written[batch.captions], expected)
    others = [i for i in range(24) if i not in batch.captions.tolist()]
    assert torch.equal(written[others], before[others])
    low, high = torch.zeros_like(before), torch.ones_like(before)
    hidden = [
        int((recipe.batches(s, table).noise_ids == net.shape.mask_id).sum()) for table in (low, high) for s in range(9)
    ]
    assert sum(hidden[:9]) > 100
    assert sum(hidden[9:]) == 0


def test_every_caption_once_an_epoch_with_its_own_image():
    data = small()
    batches = prepare_run(data, OPTIONS, CPU).recipe.batches
    scores = torch.ones(24, TINY.text_length)
    first, second = batches(0, scores), batches(1, scores)
    seen = torch.cat([first.captions, second.captions])[:24]
    assert sorted(seen.tolist()) == list(range(24))
    assert torch.equal(first.images, batches(0, scores).images)
    assert not torch.equal(first.captions, batches(2, scores).captions)
    assert torch.equal(first.pids, torch.from_numpy(data.training.caption_ids)[first.captions])
    assert torch.equal(first.ids, batches.ids[first.captions])


@pytest.mark.parametrize("name", ["sdm", "itc", "cmpm", "id", "mlm"])
def test_every_loss_trains(name):
    losses = ("sdm", name) if name in ("id", "mlm") else (name,)
    recipe = prepare_run(small(), replace(OPTIONS, losses=losses), CPU).recipe
    recipe.loss(0).backward()
    names = {n.split(".")[1] for n, p in recipe.model.named_parameters() if p.grad is not None and p.grad.any()}
    head = {"cross_attn", "cross_modal_transformer", "ln_pre_t", "ln_pre_i", "ln_post", "mlm_head"}
    assert names == {"base_model"} | (head if name == "mlm" else set()) | (
        {"weight", "bias"} if name == "id" else set()
    )


def test_without_noise_the_contrastive_loss_sees_clean_captions():
    recipe = prepare_run(small(), replace(OPTIONS, losses=("sdm",), noise=False), CPU).recipe
    recipe.model.scores.zero_()
    clean = float(recipe.loss(0).detach())
    assert not recipe.model.scores.any()  # nothing asks for scores
    recipe.objective = replace(recipe.objective, noise=True)
    assert float(recipe.loss(0).detach()) != clean


def test_uniform_scores_stay():
    recipe = prepare_run(small(), replace(OPTIONS, scores="uniform"), CPU).recipe
    recipe.loss(0)
    assert torch.unique(recipe.model.scores).tolist() == [pytest.approx(0.1, abs=1e-4)]


def test_shares_are_those_of_the_draws():
    run = prepare_run(small(), replace(OPTIONS, noise_share=1.0, informative_share=0.0), CPU)
    mask, low = run.recipe.trainee.net.shape.mask_id, torch.zeros_like(run.recipe.trainee.scores)
    batch = run.recipe.batches(0, low)
    words = (batch.ids > 0) & (batch.ids < mask)
    assert float((batch.noise_ids != batch.ids)[words].float().mean()) > 0.6  # 0.88 of 0.9
    assert ((batch.mlm_labels > 0).sum(1) == 1).all()  # nothing is drawn: the first word stands for all


def test_shuffled_scores_are_those_of_the_captions_for_other_words():
    run = prepare_run(small(), OPTIONS, CPU)
    shuffled = prepare_run(small(), replace(OPTIONS, scores="shuffled"), CPU)
    captions = run.recipe.batches(0, run.recipe.trainee.scores).captions
    for one in (run, shuffled):
        one.recipe.loss(0)
    ours, theirs = (one.recipe.trainee.scores[captions] for one in (run, shuffled))
    assert torch.equal(ours.sort().values, theirs.sort().values)
    assert not torch.equal(ours, theirs)


def test_positives():
    data = small()
    person = prepare_run(data, OPTIONS, CPU).recipe.batches.pids
    pair = prepare_run(data, replace(OPTIONS, positives="pair"), CPU).recipe.batches.pids
    assert len(set(person.tolist())) == 6
    assert len(set(pair.tolist())) == 24


def test_learns_a_handful_of_people():
    """Four persons who differ in everything: after some steps most captions find their person."""
    options = replace(OPTIONS, losses=("sdm",), noise=False, tau=0.1)
    data = synthetic(1, persons=4, held_out=4)
    data = replace(data, held_out=data.training)
    recipe = prepare_run(data, options, CPU).recipe
    before = recipe.evaluate(recipe.model.eval())["r1"]
    optimizer = torch.optim.AdamW(recipe.model.parameters(), lr=3e-3)
    for step in range(40):
        optimizer.zero_grad()
        recipe.loss(step).backward()
        optimizer.step()
    assert recipe.evaluate(recipe.model.eval())["r1"] > max(0.6, before + 0.2)


def test_augmentation():
    images = torch.rand(64, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    out = augment(images, torch.Generator().manual_seed(1))
    assert torch.equal(out, augment(images, torch.Generator().manual_seed(1)))
    plain = normalise(images)
    same = [torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(out, plain, strict=True)]
    assert sum(same) < 16  # most are shifted or erased
    erased = (out == torch.tensor(CLIP_MEAN)[:, None, None]).all(1).float().mean((1, 2))
    assert 0.25 < float((erased > 0.015).float().mean()) < 0.75
    assert float(erased.max()) < 0.45


def test_our_format_is_read_and_persons_are_held_out(tmp_path):
    path = write_people({"train": make_people(6, 5)}, tmp_path)
    data = read_data(path, (64, 32), 2, 0)
    assert len(data.training.captions) == 16
    assert len(data.held_out.captions) == 8
    assert sorted(set(data.training.image_ids.tolist())) == [0, 1, 2, 3]
    assert data.training.images[0].shape == (3, 64, 32)
    assert not set(data.training.image_names) & set(data.held_out.image_names)
    assert "2 persons" in data.notes[0]
    with pytest.raises(UsageError, match="6 of 6 persons"):
        read_data(path, (64, 32), 6, 0)
    (tmp_path / "images" / "train-00003.png").unlink()
    with pytest.raises(InputError, match=r"train-00003\.png is not there \(1 are missing\)"):
        read_data(path, (64, 32), 2, 0)


def test_whole_run_on_files(tmp_path):
    people = make_people(6, 5)
    path = write_people({"train": people, "val": make_people(3, 5, skip=6)}, tmp_path / "data")
    told = []
    options = replace(OPTIONS, data=str(path), output=tmp_path / "run", save_scores=True)
    report = train_ga_dms(options, watcher=Steps(lambda *steps: told.append(steps)))
    assert told == [(i, 4) for i in range(1, 5)]
    item = report.items[0]
    assert report.exit_code == 0
    assert {"r1", "r5", "r10", "map", "minp"} <= set(item.metrics)
    lines = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    assert [line["caption"] for line in lines] == list(people.captions)
    assert all(len(line["tokens"]) == len(line["scores"]) for line in lines)
    assert max(max(line["scores"]) for line in lines) == 1
    model = read_checkpoint(tmp_path / "run" / "model.safetensors")
    assert model.architecture == replace(TINY, vocab_size=model.tokenizer.vocab_size)
    ids = torch.from_numpy(encode(model.tokenizer, people.captions[:2], 24).ids)
    assert torch.isfinite(model.build().text_feature(ids)).all()
    assert "GA-DMS" in (tmp_path / "run" / "model.md").read_text()
    again = train_ga_dms(replace(options, epochs=3))
    assert len((tmp_path / "run" / METRICS).read_text().splitlines()) == 3
    assert again.items[0].metrics["step"] in (2, 4, 6)
    with pytest.raises(UsageError, match="another run"):
        train_ga_dms(replace(options, tau=0.5))
    started = replace(options, weights=tmp_path / "run" / "model.safetensors", epochs=2)
    report = train_ga_dms(replace(started, output=tmp_path / "second"))
    assert report.items[0].details["notes"] == ["started from model.safetensors"]


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Scores are part of the checkpoint: the third epoch masks by those of the second."""
    path = write_people({"train": make_people(6, 5), "val": make_people(3, 5, skip=6)}, tmp_path / "data")
    options = replace(OPTIONS, data=str(path), output=tmp_path / "parts", epochs=3)
    train_ga_dms(replace(options, output=tmp_path / "whole"))

    def kill(step, steps):
        if step == 5:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train_ga_dms(options, watcher=Steps(kill))
    train_ga_dms(options)
    whole, parts = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert float(whole["scores"].float().std()) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": ("sdm", "mlmm")}, "losses: 'mlmm' is no choice. Did you mean mlm"),
        ({"losses": ("mlm",)}, "one of sdm, itc and cmpm"),
        ({"losses": ("sdm", "sdm")}, "losses: each of them once"),
        ({"scores": "gas"}, "Did you mean gass"),
        ({"compare": ("plain", "random")}, "compare: 'random' is no choice"),
        ({"compare": ("plain", "plain")}, "compare: each of them once"),
        ({"noise_share": 1.5}, "noise_share"),
        ({"gass_norm": "paper"}, "gass_norm"),
        ({"warmup": 2}, "warmup: 2 epochs leave nothing of epochs 2"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"batch": 1}, "batch"),
        ({"tau": 0.0}, "tau"),
        ({"image_size": (60, 32)}, "image_size: 60x32"),
        ({"width": 18}, "width: 18"),
        ({"length": 2}, "length: 2"),
    ],
)
def test_options_that_cannot_work(change, message):
    with pytest.raises(UsageError, match=message):
        complete(replace(OPTIONS, **change), drawn=True)


def test_what_is_left_open_depends_on_weights_and_data(tmp_path):
    scratch = complete(OPTIONS, drawn=True)
    weights = complete(replace(OPTIONS, weights=tmp_path, tau=0.5), drawn=False)
    assert {name: getattr(scratch, name) for name in FROM_SCRATCH} == FROM_SCRATCH
    assert {name: getattr(weights, name) for name in FROM_WEIGHTS} == FROM_WEIGHTS | {"tau": 0.5}
    assert (scratch.augment, weights.augment) == (False, True)
    assert complete(replace(OPTIONS, augment=True), drawn=True).augment


def test_weights_need_a_tokenizer(tmp_path):
    torch.save({}, tmp_path / "clip.pt")
    with pytest.raises(UsageError, match="needs tokenizer"):
        train_ga_dms(replace(OPTIONS, output=tmp_path / "run", weights=tmp_path / "clip.pt"))


def test_means_of_planted_words():
    data = small()
    scores = np.zeros((24, TINY.text_length))
    for row, words in zip(scores, data.right, strict=True):
        row[[1 + i for i in words]] = 0.5
    assert word_means(scores, data) == {"gass_wrong": 0.0, "gass_right": 0.5, "gass_below": 1.0}
    assert word_means(np.zeros_like(scores), data)["gass_below"] == 0.5
