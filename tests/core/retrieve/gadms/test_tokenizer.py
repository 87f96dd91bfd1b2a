import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from packaged import places

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
    """CLIP's vocabulary in the files of a CLIP folder, from the list of merges that open_clip ships (not imported)."""
    packed = places("open_clip")[0] / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = len(set(range(256)) - set(printable))
    letters = [chr(code) for code in printable] + [chr(256 + i) for i in range(others)]
    names = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    (place / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (place / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return place


@pytest.mark.packaged("open_clip")
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
    with pytest.raises(InputError, match=r"vocab\.json"):
        read_clip_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("a b\n")
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        read_clip_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "<s>": 3}')
    with pytest.raises(InputError, match="no vocabulary of CLIP"):
        read_clip_tokenizer(tmp_path)
