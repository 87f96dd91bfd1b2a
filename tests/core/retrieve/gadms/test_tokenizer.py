import json
from pathlib import Path

import numpy as np
import pytest

from attn.core.errors import InputError
from attn.core.retrieve.gadms.tokenizer import WordTokenizer, encode, from_dict, read_clip_tokenizer, split_words

GOLDEN = Path(__file__).parents[3] / "golden" / "vectors" / "ga-dms" / "masking.npz"


def test_words():
    tokenizer = WordTokenizer.of(["A red t-shirt, a bag!", "red"])
    assert tokenizer.words == ("a", "red", "bag", "t-shirt")
    assert tokenizer.vocab_size == 9  # padding, unknown, four words, mask, start, end
    tokens = encode(tokenizer, ["a Red hat", "", "a a a a a a"], 6)
    assert tokens.ids.tolist() == [[7, 2, 3, 1, 8, 0], [7, 8, 0, 0, 0, 0], [7, 2, 2, 2, 2, 8]]
    assert tokens.lengths.tolist() == [5, 2, 8]
    assert tokens.truncated.tolist() == [False, False, True]
    assert from_dict(json.loads(json.dumps(tokenizer.to_dict()))) == tokenizer


def test_split_words():
    assert split_words("The man's T-shirt -- 2 bags; über") == ["the", "man's", "t-shirt", "2", "bags", "über"]


def clip_folder(place):
    """CLIP's vocabulary as open_clip ships it, in the files of a CLIP folder."""
    pytest.importorskip("tokenizers")
    encoder = pytest.importorskip("open_clip.tokenizer").SimpleTokenizer()
    merges = sorted(encoder.bpe_ranks, key=encoder.bpe_ranks.get)
    names = {
        {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}.get(name, name): i
        for name, i in encoder.encoder.items()
    }
    (place / "vocab.json").write_text(json.dumps(names))
    (place / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")
    return place


def test_bpe_gives_the_golden_ids(tmp_path):
    tokenizer = read_clip_tokenizer(clip_folder(tmp_path))
    assert tokenizer.vocab_size == 49408
    again = from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    with np.load(GOLDEN) as golden:
        captions = golden["captions"].tolist()
        expected = np.stack([golden[f"{i}/ids"] for i in range(len(captions))])
    assert np.array_equal(encode(tokenizer, captions, 77).ids, expected)
    assert np.array_equal(encode(again, captions, 77).ids, expected)
    assert [text for text, _ in tokenizer.pieces(" A\ndark-blue  T-shirt &amp; hat")] == [
        "a", "dark", "-", "blue", "t", "-", "shirt", "&", "hat",
    ]  # fmt: skip


def test_folders_that_are_no_clip(tmp_path):
    pytest.importorskip("tokenizers")
    with pytest.raises(InputError, match=r"vocab\.json"):
        read_clip_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("a b\n")
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        read_clip_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "<s>": 3}')
    with pytest.raises(InputError, match="no vocabulary of CLIP"):
        read_clip_tokenizer(tmp_path)
