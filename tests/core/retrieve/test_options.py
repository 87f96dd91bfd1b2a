"""The encoder that a process keeps."""

from pathlib import Path

import numpy as np
import pytest
from encoder_folders import TEXTS, sentence_folder

from attn.core.errors import UsageError
from attn.core.options import OptionError
from attn.core.retrieve.encoders import kept
from attn.core.retrieve.encoders.kept import encoder_of
from attn.core.retrieve.encoders.load import load
from attn.core.retrieve.options.encoder import EncoderOptions
from attn.core.retrieve.options.find import Groups, Hits, SearchOptions
from attn.core.retrieve.options.index import IndexOptions
from attn.core.retrieve.options.judge import EvalOptions, TuneOptions
from attn.core.retrieve.verbs.evaluate import score


@pytest.fixture
def loads(monkeypatch):
    """Models loaded since the test began."""
    kept._loaded.cache_clear()
    found = []
    monkeypatch.setattr(kept, "load", lambda name, **more: found.append(name) or load(name, **more))
    yield found
    kept._loaded.cache_clear()


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IndexOptions(prune=True, keep_missing=True), "prune and keep_missing exclude each other"),
        (lambda: EncoderOptions(max_tokens=3), "max_tokens: 3 is too small. It is at least 4."),
        (lambda: SearchOptions(temperature=0.0), "temperature: 0 must be above 0"),
        (lambda: Hits("trek"), "form: 'trek' is not known. Did you mean trec?"),
        (lambda: Hits("jsonl", sheet=Path("x.pdf")), "sheet x.pdf: name it x.html for a page, or .jpg, .png."),
        (lambda: Groups("trec"), "form: 'trec' is not known. Known: table, jsonl, tsv, paths0."),
        (lambda: EvalOptions(temperatures=(1.0, -1.0)), "temperatures: -1 must be above 0"),
        (lambda: TuneOptions(grid=(float("nan"),)), "grid: nan must be above 0"),
    ],
)
def test_a_library_call_is_checked_as_a_command_is_and_named_by_field(make, message):
    with pytest.raises(OptionError) as error:
        make()
    assert str(error.value).startswith(message)
