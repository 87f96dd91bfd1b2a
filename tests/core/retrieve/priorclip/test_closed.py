from dataclasses import replace

import numpy as np
import pytest
import torch

from attn.core.errors import UsageError
from attn.core.models.hooks import edit
from attn.core.retrieve.priorclip.checkpoint import PriorCLIPCheckpoint, read_checkpoint, write_checkpoint
from attn.core.retrieve.priorclip.closed import ClosedDomainPIR, build_model
from attn.core.retrieve.priorclip.encoder import load_priorclip
from attn.core.retrieve.priorclip.model import PriorCLIP, PriorCLIPArchitecture, belief_map
from attn.core.retrieve.priorclip.text import Vocabulary

SMALL = PriorCLIPArchitecture(
    image_size=32, patch_size=8, width=32, num_heads=2, out=24, features=16, max_words=6, variant="pir", filter_size=13
)
WORDS = Vocabulary(("two", "red", "boats", "in", "water"))


def model(**changes):
    torch.manual_seed(0)
    return build_model(replace(SMALL, **changes), len(WORDS), 3).eval()


def vectors(net, texts):
    with torch.inference_mode():
        return net.encode_text(torch.from_numpy(WORDS.encode(texts)[0]))


def test_each_variant_is_its_model():
    assert isinstance(model(), ClosedDomainPIR)
    assert isinstance(model(variant="priorclip"), PriorCLIP)


def test_unit_vectors_and_belief_in_mean_and_patches():
    with torch.inference_mode():
        out = model().encode_image(torch.rand(3, 3, 32, 32))
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(3))
    assert out.belief.shape == (3, 17)
    torch.testing.assert_close(out.belief.sum(1), torch.ones(3))
    assert belief_map(model(), np.random.default_rng(0).random((3, 50, 70), dtype=np.float32)).shape == (4, 4)


def test_a_caption_does_not_depend_on_the_others():
    net = model()
    torch.testing.assert_close(vectors(net, ["red", "two red boats in water"])[:1], vectors(net, ["red"]))


def test_the_encoders_are_those_of_the_golden_test_on_the_tokens_of_the_trunks():
    """Steps 1 to 4 of section 3A, written out."""
    net, images = model(), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        x = net.normalise(images)
        patches = net.vision(x)
        torch.testing.assert_close(patches[:, 0], patches[:, 1:].mean(1))
        expected = net.pae.encode_image(patches, net.instruction(x)).embedding
        torch.testing.assert_close(net.encode_image(images).embedding, expected)


def test_without_an_instruction_the_trunks_are_alone():
    net, images = model(instruction=False), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(net.vision_proj(net.vision(net.normalise(images))[:, 0]), dim=1)
        torch.testing.assert_close(net.encode_image(images).embedding, expected)
    assert net.encode_image(images).belief is None
    assert not any("pae" in name for name in net.state_dict())


def test_every_weight_learns_but_the_frozen_prior():
    net = model().train()
    net.instruction.requires_grad_(False)
    image = net.encode_image(torch.rand(4, 3, 32, 32)).embedding
    text = net.encode_text(torch.from_numpy(WORDS.encode(["red", "two boats", "in water", "red boats"])[0]))
    (image * text.roll(1, 0)).sum().backward()
    # belief ranks and filters, in whole tokens: it hands no gradient to what it is made of
    still = {name for name, p in net.named_parameters() if p.grad is None}
    assert {name.split(".")[0] for name in still} == {"instruction", "temperature", "center_temperature"}
    assert net.pae.conv_proj.weight.grad.abs().sum() > 0  # as the query of each round


def test_file_encoder_and_temperature(tmp_path):
    path = tmp_path / "model.safetensors"
    write_checkpoint(PriorCLIPCheckpoint(SMALL, WORDS, ("desert", "forest", "harbour"), model().state_dict()), path)
    assert read_checkpoint(path).architecture == SMALL
    options = {"device": torch.device("cpu"), "dtype": torch.float32, "max_tokens": None}
    plain, sharp = (load_priorclip("mine", path, temperature=t, **options) for t in (1.0, 0.5))
    assert plain.fingerprint.pooling == "pir"
    texts, photo = ["two red boats in water"], np.random.default_rng(0).random((3, 40, 40), dtype=np.float32)
    for encode in (lambda e: e.encode_texts(texts), lambda e: e.encode_images([photo])):
        one, other = (encode(encoder).vectors for encoder in (plain, sharp))
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)
        assert np.abs(one - other).max() > 1e-6


def test_the_temperature_divides_the_logits_of_every_encoder():
    """Against queries divided by hand, weight and bias, in each of the attentions."""
    net, texts = model(), ["two red boats in water"]
    with edit(net.pae, temperature=0.5):
        found = vectors(net, texts)
    changed = model()
    with torch.no_grad():
        for name, parameter in changed.pae.named_parameters():
            if "linear_q" in name:
                parameter.mul_(2)
    torch.testing.assert_close(found, vectors(changed, texts))


@pytest.mark.parametrize("change", [{"cycle_num": 10**6}, {"filter_size": 10**9}, {"variant": "other"}])
def test_a_forged_description_is_refused_before_it_is_built(tmp_path, change):
    path = tmp_path / "model.safetensors"
    write_checkpoint(PriorCLIPCheckpoint(replace(SMALL, **change), WORDS, ("a", "b", "c"), model().state_dict()), path)
    with pytest.raises(UsageError, match="does not hold the model it describes"):
        read_checkpoint(path)
