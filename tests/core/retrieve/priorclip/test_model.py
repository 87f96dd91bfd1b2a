import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from attn.core.errors import UsageError
from attn.core.retrieve.encoders.base import Encoder
from attn.core.retrieve.priorclip.checkpoint import PriorCLIPCheckpoint, read_checkpoint, write_checkpoint
from attn.core.retrieve.priorclip.encoder import load_priorclip
from attn.core.retrieve.priorclip.model import PriorCLIP, PriorCLIPArchitecture, belief_map, embed_images, fit_image
from attn.core.retrieve.priorclip.text import Vocabulary

SMALL = PriorCLIPArchitecture(image_size=32, patch_size=8, width=32, num_heads=2, out=24, features=16, max_words=6)
WORDS = Vocabulary(("two", "red", "boats", "in", "water"))


def model(architecture=SMALL):
    torch.manual_seed(0)
    return PriorCLIP(architecture, len(WORDS), 3).eval()


def photo(h=50, w=70, seed=0):
    return np.random.default_rng(seed).random((3, h, w), dtype=np.float32)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_checkpoint(PriorCLIPCheckpoint(SMALL, WORDS, ("desert", "forest", "harbour"), model().state_dict()), path)
    return path


def encoder(file, **changes):
    options = {"device": torch.device("cpu"), "dtype": torch.float32, "temperature": 1.0, "max_tokens": None}
    return load_priorclip("mine", file, **options | changes)


def test_belief_map_is_a_share_of_each_patch():
    found = belief_map(model(), photo())
    assert found.shape == (4, 4)
    assert found.dtype == np.float32
    assert (found > 0).all()
    assert found.sum() < 1


def test_belief_map_follows_the_picture():
    """A patch that is moved takes its belief along, but for what the position embedding adds."""
    net = model()
    with torch.no_grad():
        net.visual.positional_embedding.zero_()
    picture = np.full((3, 32, 32), 0.3, np.float32)
    picture[:, 8:16, 16:24] = photo(8, 8)
    moved = np.roll(picture, 8, axis=2)
    maps = [belief_map(net, one) for one in (picture, moved)]
    odd = [np.unravel_index(np.abs(m - np.median(m)).argmax(), m.shape) for m in maps]
    assert odd == [(1, 2), (1, 3)]


def test_without_instruction_there_is_no_map():
    plain = model(replace(SMALL, instruction=False))
    assert plain.encode_image(torch.rand(1, 3, 32, 32)).belief is None
    with pytest.raises(ValueError, match="no belief map"):
        belief_map(plain, photo())


def test_padding_and_companions_do_not_matter():
    net = model()
    with torch.inference_mode():
        both, alone = (torch.from_numpy(WORDS.encode(texts)[0]) for texts in (["red", "two red boats"], ["red"]))
        torch.testing.assert_close(net.encode_text(both)[:1], net.encode_text(alone))
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(embed_images(net, images, block=2), embed_images(net, images))
    assert embed_images(net, images[:0]).shape == (0, 24)


@pytest.mark.parametrize("wrong", [np.zeros((32, 32)), np.zeros((4, 32, 32)), np.zeros((3, 0, 8))])
def test_what_is_no_photo_is_refused(wrong):
    with pytest.raises(ValueError, match=r"a photo is \[3, H, W\]"):
        fit_image(wrong, 32)


def test_model_file_round_trip(file):
    found = read_checkpoint(file)
    assert (found.architecture, found.vocabulary, found.scenes) == (SMALL, WORDS, ("desert", "forest", "harbour"))
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():  # weights are stored in half precision
        one, other = (net.encode_image(images).embedding for net in (model(), found.build()))
    torch.testing.assert_close(one, other, rtol=0, atol=5e-3)


def test_encoder_keeps_the_contract(file):
    found: Encoder = encoder(file)
    assert found.modalities == {"text", "image"}
    assert found.fingerprint.dim == 24
    assert found.fingerprint.max_tokens == 8
    texts = found.encode_texts(["two red boats", "", "zebra", "two red boats in water two red boats"])
    images = found.encode_images([photo(), photo(32, 32, seed=1)])
    for encoded, n in ((texts, 4), (images, 2)):
        assert encoded.vectors.shape == (n, 24)
        assert encoded.vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-6)
    assert texts.truncated.tolist() == [False, False, False, True]
    assert texts.tokens.tolist() == [5, 2, 3, 8]
    assert found.encode_texts([]).vectors.shape == (0, 24)
    assert found.encode_images([]).vectors.shape == (0, 24)
    np.testing.assert_array_equal(found.belief_map(photo()), belief_map(read_checkpoint(file).build(), photo()))


def test_temperature_and_limit_change_vectors_and_fingerprint(file):
    plain, texts = encoder(file), ["two red boats in water"]
    sharp, short = encoder(file, temperature=0.3), encoder(file, max_tokens=4)
    for other in (sharp, short):
        assert plain.fingerprint.difference(other.fingerprint)
        assert np.abs(other.encode_texts(texts).vectors - plain.encode_texts(texts).vectors).max() > 1e-6
    assert np.abs(sharp.encode_images([photo()]).vectors - plain.encode_images([photo()]).vectors).max() > 1e-6
    np.testing.assert_array_equal(sharp.at(1.0).encode_texts(texts).vectors, plain.encode_texts(texts).vectors)
    assert short.encode_texts(texts).truncated.all()


def test_through_the_one_door_with_its_check_of_the_temperature(file):
    from attn.core.retrieve.encoders.load import load

    found = load(str(file), temperature=0.5)
    assert found.fingerprint.pooling == "priorclip"
    assert found.fingerprint.temperature == 0.5
    assert len(found.fingerprint.sha256) == 64


@pytest.mark.parametrize("limit", [2, 9])
def test_token_limits_that_do_not_fit(file, limit):
    with pytest.raises(UsageError, match="takes 3 to 8 tokens"):
        encoder(file, max_tokens=limit)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "attn-segment"}, "is no PriorCLIP model"),
        ({"version": 99}, "newer attn"),
        ({"vocabulary": ["one"]}, "does not hold the model it describes"),
        ({"architecture": {"gate": "best"}}, "does not hold the model it describes"),
    ],
)
def test_other_files_are_refused(file, tmp_path, change, match):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as opened:
        described = json.loads(opened.metadata()["attn"]) | change
        state = {name: opened.get_tensor(name) for name in opened.keys()}
    save_file(state, tmp_path / "m.safetensors", {"attn": json.dumps(described)})
    with pytest.raises(UsageError, match=match):
        read_checkpoint(tmp_path / "m.safetensors")


def test_missing_and_damaged_files(file, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UsageError, match="is no safetensors file"):
        read_checkpoint(tmp_path / "cut.safetensors")
