"""The encoder that a process keeps."""

import numpy as np
import pytest
from encoder_folders import TEXTS, sentence_folder

from attn.core.errors import UsageError
from attn.core.retrieve import options
from attn.core.retrieve.encoders.load import load
from attn.core.retrieve.options import EncoderOptions, encoder_of
from attn.core.retrieve.verbs.evaluate import EvalOptions, score


@pytest.fixture
def loads(monkeypatch):
    """Models loaded since the test began."""
    options._loaded.cache_clear()
    found = []
    monkeypatch.setattr(options, "load", lambda name, **more: found.append(name) or load(name, **more))
    yield found
    options._loaded.cache_clear()


def test_one_load_for_all_temperatures_and_the_vectors_of_each(tmp_path, loads):
    model = str(sentence_folder(tmp_path / "m"))
    for tau in (1.0, 0.9, 0.5, 1.0):
        encoder, alone = encoder_of(EncoderOptions(model, tau)), load(model, temperature=tau)
        assert encoder.fingerprint == alone.fingerprint
        assert np.array_equal(encoder.encode_texts(TEXTS).vectors, alone.encode_texts(TEXTS).vectors)
    assert loads == [model]
    assert not np.array_equal(
        encoder_of(EncoderOptions(model, 0.5)).encode_texts(TEXTS).vectors, encoder.encode_texts(TEXTS).vectors
    )


def test_eval_of_several_temperatures_loads_once(tmp_path, loads):
    (tmp_path / "set" / "qrels").mkdir(parents=True)
    lines = [f'{{"_id": "{i}", "text": "{text}"}}\n' for i, text in enumerate(TEXTS)]
    for name in ("corpus", "queries"):
        (tmp_path / "set" / f"{name}.jsonl").write_text("".join(lines))
    (tmp_path / "set" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n0\t0\t1\n1\t1\t1\n")
    encoder = EncoderOptions(str(sentence_folder(tmp_path / "m")))
    report = score(tmp_path / "set", EvalOptions(encoder, (1.0, 0.9, 0.8), diagnose=True))
    assert [item.details["model"]["temperature"] for item in report.items] == [1.0, 0.9, 0.8]
    assert len(loads) == 1


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_temperatures_that_are_none(tmp_path, tau):
    with pytest.raises(UsageError, match="must be above 0"):
        encoder_of(EncoderOptions(str(tmp_path), tau))
