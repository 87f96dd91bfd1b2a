"""Official GA-DMS: methods/ga-dms.md, section 10; 1e-4 relative, scores 2e-4 absolute, ids and masks exact."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from attn.core.retrieve.gadms import losses
from attn.core.retrieve.gadms.clip import CLIPArchitecture, at, end_position
from attn.core.retrieve.gadms.gass import GASSOptions, gass, reference
from attn.core.retrieve.gadms.masking import informative_probability, mask_caption, noise_probability
from attn.core.retrieve.gadms.official import load_official
from attn.core.train.ga_dms.recipe import warmup_cosine

VECTORS = Path(__file__).parent / "vectors" / "ga-dms"


def vectors(name):
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind in "fi"}


@pytest.fixture(scope="module")
def golden():
    return vectors("gass_forward")


@pytest.fixture(scope="module")
def model(golden):
    cfg = golden["cfg"].tolist()
    shape = CLIPArchitecture(
        embed_dim=cfg[0], image_size=(cfg[1], cfg[2]), vision_layers=cfg[3], vision_width=cfg[4], patch_size=cfg[5],
        text_length=cfg[6], vocab_size=cfg[7], text_width=cfg[8], text_heads=cfg[9], text_layers=cfg[10],
        decoder_layers=cfg[11],
    )  # fmt: skip
    net, fresh = load_official({k.removeprefix("param/"): v for k, v in vectors("params").items()}, shape=shape)
    assert not fresh
    return net


@pytest.fixture(scope="module")
def trace(model, golden):
    return reference(model.base_model, golden["caption_ids"].long(), golden["image_tokens"][:, 0])


def close(ours, theirs, relative=1e-4):
    """Relative to the largest value: elements near zero have no digits to compare."""
    assert float((ours - theirs).abs().max()) <= relative * max(float(theirs.abs().max()), 1e-12)


def test_towers(model, golden):
    with torch.no_grad():
        tokens = model.base_model.image_tokens(golden["image"])
        close(tokens, golden["image_tokens"])
        close(model.image_feature(golden["image"]), golden["eval_image_feature"])
        close(model.text_feature(golden["caption_ids"].long()), golden["eval_text_feature"])
    assert end_position(golden["caption_ids"]).tolist() == golden["eos_position"].tolist()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("q", "q"), ("k", "k"), ("v", "v"), ("attention", "attn_map"), ("grad", "grad_attn_out"), ("weight", "cosine_qk")],
)
def test_intermediate_values_of_gass(trace, golden, ours, theirs):
    expected = golden[theirs]
    if expected.ndim == 4 and theirs != "attn_map":
        expected = expected.transpose(1, 2)  # theirs: positions first
    close(torch.stack(getattr(trace, ours)).detach(), expected)


def test_the_text_before_and_behind_the_scored_layers(trace, golden):
    close(trace.start.detach(), golden["mid_text"].transpose(0, 1))  # theirs: positions first
    close(trace.text.detach(), golden["dense_text_feature"])


def test_cosines_of_gass(trace, golden):
    close(trace.cosine.detach(), golden["cosine"])


@pytest.mark.parametrize(("norm", "name"), [("attention", "gass_paper"), ("released", "gass_released")])
def test_scores(model, golden, norm, name):
    arguments = model.base_model, golden["caption_ids"].long(), golden["image_tokens"][:, 0], GASSOptions(norm=norm)
    for scores in (reference(*arguments).scores, gass(*arguments)):
        assert float((scores - golden[name]).abs().max()) <= 2e-4


def test_probabilities(golden):
    scores = golden["gass_released"].double()
    for function, name in ((informative_probability, "p_info"), (noise_probability, "p_noise")):
        ours = torch.tensor([[function(s) for s in row] for row in scores.tolist()])
        close(ours, golden[name])


def test_training_losses(model, golden):
    with torch.no_grad():
        tokens = model.base_model.image_tokens(golden["image"])
        position = end_position(golden["caption_ids"])
        text = at(model.base_model.text_tokens(golden["noise_ids"].long()), position)
        sdm = losses.sdm(tokens[:, 0], text, golden["pids"])
        labels = golden["mlm_labels"].long()
        logits = model.word_logits(model.base_model.text_tokens(golden["mlm_ids"].long()), tokens, labels > 0)
        words = losses.masked_words(logits, labels[labels > 0])
    close(sdm, golden["loss_sdm"])
    close(0.4 * words, golden["loss_mlm"])
    accuracy = (logits.argmax(1) == labels[labels > 0]).float().mean()
    assert float(accuracy) == pytest.approx(float(golden["mlm_acc"]), abs=1e-6)


def test_losses():
    golden = vectors("losses_metrics")
    image, text, pids = golden["image_features"], golden["text_features"], golden["pids"].long()
    close(losses.sdm(image, text, pids, tau=0.02), golden["sdm_tau0.02"])
    close(losses.sdm(image, text, pids, tau=0.07), golden["sdm_tau0.07"])
    close(losses.itc(image, text), golden["itc"])
    close(losses.identity(golden["image_logits"], golden["text_logits"], pids), golden["id"])
    close(losses.cmpm(image, text, pids), golden["cmpm"])


@pytest.mark.parametrize("caption", range(5))
def test_masks(caption):
    golden = {key: value for key, value in vectors("masking").items() if key.startswith(f"{caption}/")}
    ids, scores = (golden[f"{caption}/{name}"].tolist() for name in ("ids", "score"))
    generator = random.Random(int(golden[f"{caption}/random_seed"]))
    masked = mask_caption(ids, scores, generator, mask_id=49405, masking="released")
    for name in ("mlm_ids", "mlm_labels", "noise_ids"):
        assert getattr(masked, name) == golden[f"{caption}/{name}"].tolist()


def test_learning_rates():
    golden = {name: value.tolist() for name, value in vectors("schedule").items()}
    epochs, warmup = int(golden["epochs"]), int(golden["warmup_epochs"])
    rates = [
        golden["base_lr"] * warmup_cosine(e, epochs=epochs, warmup=warmup, first=golden["warmup_factor"])
        for e in range(epochs)
    ]
    np.testing.assert_allclose(rates, golden["lr"], rtol=1e-9, atol=1e-15)
