import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from steps import Steps

from attn.core.bundles import Compute
from attn.core.errors import UsageError
from attn.core.fit import loop as trainer
from attn.core.fit.frame import run_of
from attn.core.retrieve.priorclip.checkpoint import read_checkpoint
from attn.core.retrieve.priorclip.data import synthetic
from attn.core.retrieve.priorclip.model import PriorCLIP, PriorCLIPArchitecture
from attn.core.retrieve.priorclip.scenes import draw_scenes, write_scenes
from attn.core.retrieve.priorclip.text import Vocabulary
from attn.core.train.priorclip.options import PriorCLIPOptions
from attn.core.train.priorclip.recipe import (
    InstructionRecipe,
    PairRecipe,
    PictureBatches,
    object_belief,
    random_crop,
    recalls,
    scene_captions,
    tokens_of,
)
from attn.core.train.priorclip.run import (
    form_of,
    plain_options,
    read_splits,
    scenes_of,
    stage_pairs,
    stage_steps,
    train_priorclip,
)

SMALL = PriorCLIPArchitecture(image_size=32, patch_size=8, width=32, num_heads=2, out=32, features=16)
TINY = PriorCLIPOptions(
    Path("run"), image_size=32, patch=8, width=32, heads=2, steps=6, coarse_steps=2, instruction_steps=2, warmup=1,
    batch=8, evaluate_every=2, compute=Compute(device="cpu", threads=1),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Drawing takes longer than all else here."""
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)


@pytest.fixture(scope="module")
def splits():
    return synthetic({"train": 48, "val": 16, "test": 16}, seed=3, size=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    scenes = draw_scenes(56, seed=3)
    splits = {"train": scenes[:32], "val": scenes[32:44], "test": scenes[44:]}
    return write_scenes(tmp_path_factory.mktemp("scenes"), splits)


def parts(splits, **changes):
    """Model, vocabulary, batches of the training pictures."""
    train = splits["train"]
    vocabulary = Vocabulary.of(c for row in train.captions for c in row)
    scenes = scenes_of(train)
    torch.manual_seed(0)
    model = PriorCLIP(replace(SMALL, **changes), len(vocabulary), len(scenes))
    labels = torch.tensor([scenes.index(label) for label in train.labels])
    return model, vocabulary, PictureBatches(train, tokens_of(train.captions, vocabulary, 30), labels, 8, 1)


def test_batches_are_those_of_the_step_and_an_epoch_holds_every_picture_once(splits):
    _, _, batches = parts(splits)
    assert all(torch.equal(a, b) for a, b in zip(batches(5), batches(5), strict=True))
    rows = torch.cat([batches(step)[2] for step in range(6)])  # 48 pictures
    assert sorted(rows.tolist()) == list(range(48))
    assert rows.tolist() != torch.cat([batches(step)[2] for step in range(6, 12)]).tolist()
    images, ids, rows = batches(0)
    assert torch.equal(images[3], splits["train"].images[rows[3]].float() / 255)
    assert any(np.array_equal(ids[3].numpy(), one) for one in batches.tokens[int(rows[3])])


def test_random_crops_are_parts_of_the_picture():
    images = torch.linspace(0.2, 0.8, 32).expand(4, 3, 32, 32).clone()  # brightness rises to the right
    out = random_crop(images, np.random.default_rng(0))
    assert out.shape == images.shape
    assert 0.19 <= out.min() <= out.max() <= 0.81
    slopes = out[:, 0, 16, -4] - out[:, 0, 16, 4]
    assert (slopes.abs() < 0.6).all()
    assert (slopes.abs() > 0.3).all()
    many = random_crop(images[:1].expand(64, -1, -1, -1), np.random.default_rng(1))
    assert 10 < int(((many[:, 0, 16, -4] - many[:, 0, 16, 4]) < 0).sum()) < 54  # about half are mirror images


def test_the_instruction_is_frozen_after_its_stage(splits, tmp_path):
    from attn.core.train.priorclip.run import train_stages

    _, vocabulary, _ = parts(splits)
    options = replace(TINY, output=tmp_path)
    with run_of("priorclip", options, watcher=None, arguments=None) as run:
        done = train_stages(run, splits, vocabulary, tmp_path, options, False)
    learned = torch.load(tmp_path / "instruction" / "best.pt", weights_only=True)
    for name, value in done.model.instruction.state_dict().items():
        assert torch.equal(value, learned[name])
    assert list(done.outcomes) == ["instruction", "coarse", "fine"]
    assert [row["step"] for row in done.outcomes["fine"].history] == [2, 4]


def test_stage_losses(splits):
    """Stage 1 has no affiliation loss and takes pictures of one scene as each other's."""
    model, vocabulary, batches = parts(splits)
    coarse_tokens = tokens_of(scene_captions(splits["train"].labels), vocabulary, 30)
    coarse = replace(batches, tokens=coarse_tokens)
    fine = [PairRecipe(model, batches, splits["val"], vocabulary, center_factor=f) for f in (0.0, 1.0, 2.0)]
    first, second, third = (recipe.loss(0).item() for recipe in fine)
    assert second > first
    assert third - second == pytest.approx(second - first, rel=1e-4)
    with_centers = PairRecipe(model, coarse, splits["val"], vocabulary, together="scene", center_factor=5.0)
    without = PairRecipe(model, coarse, splits["val"], vocabulary, together="scene", center_factor=0.0)
    assert with_centers.loss(0).item() == without.loss(0).item()


def test_a_few_steps_learn_the_scene_and_the_pairs(splits):
    model, vocabulary, batches = parts(splits)
    for recipe, steps in (
        (InstructionRecipe(model, batches, splits["val"], scenes_of(splits["train"])), 30),
        (PairRecipe(model, batches, splits["val"], vocabulary), 30),
    ):
        optimizer = torch.optim.AdamW(recipe.model.parameters(), 5e-3)
        losses = []
        for step in range(steps):
            loss = recipe.loss(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_recalls_of_a_model_that_knows_everything(splits, monkeypatch):
    """Vectors are set by hand: each caption that of its picture."""
    model, vocabulary, _ = parts(splits)
    vectors = torch.nn.functional.normalize(torch.randn(16, 32), dim=1)
    owner = torch.from_numpy(splits["test"].caption_image)
    monkeypatch.setattr("attn.core.train.priorclip.recipe.embed_images", lambda model, images: vectors)
    monkeypatch.setattr("attn.core.train.priorclip.recipe.embed_texts", lambda model, ids: vectors[owner])
    assert set(recalls(model, splits["test"], vocabulary).values()) == {1.0}


def test_object_belief_reads_the_mask(splits):
    model, _, _ = parts(splits)
    found = object_belief(model.eval(), splits["test"])
    assert found.keys() == {"belief_object", "belief_background"}
    everywhere = replace(splits["test"], objects=torch.ones_like(splits["test"].objects))
    assert object_belief(model, everywhere) == {}
    assert object_belief(parts(splits, instruction=False)[0], splits["test"]) == {}


def test_run_writes_a_model_that_gives_the_reported_metrics(data, tmp_path):
    report = train_priorclip(replace(TINY, data=str(data), output=tmp_path / "run", compare=True))
    item = report.items[0]
    assert report.exit_code == 0
    checkpoint = read_checkpoint(tmp_path / "run" / "model.safetensors")
    from attn.core.retrieve.priorclip.data import read_dataset

    pictures = read_dataset(data, 32)[0]["test"]
    again = recalls(checkpoint.build(), pictures, checkpoint.vocabulary)
    assert again["mr"] == pytest.approx(item.metrics["mr"], abs=0.05)  # weights are stored in half precision
    assert [row["model"] for row in report.to_dict()["items"][0]["details"]["comparison"]] == [
        "PriorCLIP",
        "plain CLIP",
    ]
    assert (tmp_path / "run" / "baseline" / "metrics.jsonl").exists()
    assert "mr" in (tmp_path / "run" / "model.md").read_text()
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(data, tmp_path):
    def kill(step, steps):
        assert steps == 8
        if step == 7:  # in the middle of stage 2
            raise RuntimeError("killed")

    options = replace(TINY, data=str(data), output=tmp_path / "run")
    whole = train_priorclip(replace(options, output=tmp_path / "whole"))
    with pytest.raises(RuntimeError, match="killed"):
        train_priorclip(options, watcher=Steps(kill))
    resumed = train_priorclip(options)
    assert resumed.items[0].metrics == whole.items[0].metrics
    one, other = (read_checkpoint(tmp_path / n / "model.safetensors").state for n in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(UsageError, match="holds another run"):
        train_priorclip(replace(options, center_factor=0.5))


def test_pir_goes_on_after_a_kill_beside_its_trunks_alone(data, tmp_path):
    def kill(step, steps):
        assert steps == 14  # stage 0, and six of each model: PIR is trained on one set, without stage 1
        if step == 7:
            raise RuntimeError("killed")

    options = replace(TINY, data=str(data), variant="pir", coarse_steps=None, compare=True, output=tmp_path / "run")
    whole = train_priorclip(replace(options, output=tmp_path / "whole"))
    with pytest.raises(RuntimeError, match="killed"):
        train_priorclip(options, watcher=Steps(kill))
    assert train_priorclip(options).items[0].metrics == whole.items[0].metrics
    one, other = (read_checkpoint(tmp_path / n / "model.safetensors").state for n in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    comparison = whole.to_dict()["items"][0]["details"]["comparison"]
    assert [row["model"] for row in comparison] == ["PIR", "trunks alone"]
    assert (tmp_path / "run" / "model.md").read_text().startswith("# PIR")


def test_open_domain_reports_new_words_and_new_scenes(tmp_path, monkeypatch):
    counts = {"train": 20, "val": 10, "test": 10, "coarse": 16, "unseen": 9}
    monkeypatch.setattr("attn.core.train.priorclip.run.OPEN_PICTURES", counts)
    options = replace(TINY, data="synthetic-open", steps=4, output=tmp_path / "with")
    found = train_priorclip(options).items[0].metrics
    assert {"mr", "synonyms_mr", "unseen_t2i_r@1"} <= found.keys()
    words = read_checkpoint(tmp_path / "with" / "model.safetensors").vocabulary.words
    assert "jet" in words
    alone, _ = read_splits(replace(options, coarse_steps=0))
    same, _ = read_splits(replace(options, coarse_data="same"))
    assert "coarse" not in alone
    assert "coarse" not in same


def test_stage_1_on_a_file_of_its_own(data, tmp_path):
    scenes = draw_scenes(60, seed=8)
    path = write_scenes(tmp_path, {"train": scenes[:40], "test": scenes[40:]})
    read, notes = read_splits(replace(TINY, data=str(data), coarse_data=str(path)))
    assert len(read["coarse"]) == 40
    assert any("20 pictures of val and test are left out" in note for note in notes)
    assert any("have the names of held-out ones" in note for note in notes)
    pictures, captions, together = stage_pairs(read, "coarse")
    assert (pictures, captions, together) == (read["coarse"], read["coarse"].captions, "caption")
    assert stage_pairs(read, "fine")[2] == "picture"
    with pytest.raises(UsageError, match=r"coarse_data: absent.json is no file"):
        read_splits(replace(TINY, data=str(data), coarse_data="absent.json"))


def test_pairs_with_one_caption_belong_together(splits):
    model, vocabulary, batches = parts(splits)
    one = replace(batches, tokens=[row[:1] * 0 + 5 for row in batches.tokens])  # all say the same
    scene = replace(one, labels=torch.zeros_like(one.labels))
    by_caption, by_scene = (
        PairRecipe(model, pairs, splits["val"], vocabulary, together=together).loss(0).item()
        for pairs, together in ((one, "caption"), (scene, "scene"))
    )
    assert by_caption == by_scene


def test_the_affiliation_loss_is_that_of_the_variant():
    assert form_of(TINY) == form_of(replace(TINY, variant="pir", affiliation_targets="class")) == "priorclip"
    assert form_of(replace(TINY, variant="pir")) == "pir"


def test_interrupted_in_an_early_stage(data, tmp_path):
    def stop(step, steps):
        if step == 3:
            raise KeyboardInterrupt

    report = train_priorclip(replace(TINY, data=str(data), output=tmp_path / "run"), watcher=Steps(stop))
    assert report.exit_code == 130
    assert report.items[0].output is None
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_the_plain_model_takes_as_many_steps():
    assert sum(stage_steps(plain_options(TINY)).values()) == TINY.steps
    assert stage_steps(TINY) == {"instruction": 2, "coarse": 2, "fine": 4}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"gate": "ranks"}, "gate: 'ranks' is no choice. Did you mean rank"),
        ({"affiliation_targets": "spread"}, "affiliation_targets"),
        ({"augment": "flip"}, "augment"),
        ({"image_size": 33}, "image_size"),
        ({"width": 33}, "width"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"batch": 1}, "batch"),
        ({"coarse_steps": 6}, "warmup"),
        ({"coarse_steps": 1}, "nothing of coarse_steps"),
        ({"instruction_steps": 1}, "nothing of instruction_steps"),
        ({"variant": "clip"}, "variant"),
        ({"variant": "pir", "gate": "rank"}, "gate: an option of variant priorclip"),
        ({"cycle_num": 2}, "cycle_num: an option of variant pir"),
        ({"instruction": False, "gate": "rank"}, "gate: nothing without instruction"),
        ({"variant": "pir", "filter_size": 18}, "filter_size: 18 of 17 tokens"),
        ({"variant": "pir", "coarse_steps": None, "coarse_data": "a.json"}, "coarse_steps is 0"),
    ],
)
def test_options_that_cannot_work(changes, match):
    with pytest.raises(UsageError, match=match):
        replace(TINY, **changes)
