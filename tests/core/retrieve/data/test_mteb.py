"""MTEB data sets as parquet files: texts, pictures, several splits, and what is refused."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoder_folders import dual_folder, sentence_folder
from PIL import Image

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.data.formats import read_dataset
from attn.core.retrieve.data.sources import read_source
from attn.core.retrieve.options.encoder import EncoderOptions
from attn.core.retrieve.options.judge import EvalOptions
from attn.core.retrieve.verbs.evaluate import score

CORPUS = [{"_id": "007", "title": "Old", "text": "town"}, {"_id": "7", "title": "", "text": "a dog"}]
QUERIES = [{"_id": "q1", "text": "the old town"}, {"_id": "q2", "text": "dog"}, {"_id": "q3", "text": "cat"}]
QRELS = [{"query-id": "q1", "corpus-id": "007", "score": 1}, {"query-id": "q2", "corpus-id": "7", "score": 2.0}]


def write(folder: Path, **files: list[dict]) -> Path:
    """``corpus__test_00000`` is ``corpus/test-00000.parquet``."""
    for name, rows in files.items():
        path = folder / (name.replace("__", "/").replace("_0", "-0") + ".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = dict.fromkeys(key for row in rows for key in row)
        pq.write_table(pa.table({key: [row.get(key) for row in rows] for key in columns}), path)
    return folder


def png(value: int) -> dict:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 6, 3), value, np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def whole(folder: Path, **more: list[dict]) -> Path:
    parts = dict(
        corpus__corpus_00000_of_00001=CORPUS, queries__queries_00000_of_00001=QUERIES, default__test_00000=QRELS
    )
    return write(folder, **parts | more)


def test_texts(tmp_path):
    data = read_dataset(whole(tmp_path / "Some"))
    assert (data.name, data.kind, data.split, data.modalities) == ("Some", "mteb", "test", ("text", "text"))
    assert data.documents == {"007": "Old town", "7": "a dog"}
    assert data.queries == {"q1": "the old town", "q2": "dog"}
    assert data.qrels == {"q1": {"007": 1}, "q2": {"7": 2}}
    assert data.warnings == ("1 query has no judgement in 'test': left out",)


def test_single_files_and_shards_are_the_same(tmp_path):
    one = write(tmp_path / "one", corpus=CORPUS, queries=QUERIES, qrels=QRELS)
    shards = write(
        tmp_path / "two", corpus__x_00000=CORPUS[:1], corpus__x_00001=CORPUS[1:], queries=QUERIES, data__qrels=QRELS
    )
    a, b = read_dataset(one), read_dataset(shards)
    assert (a.documents, a.queries, a.qrels) == (b.documents, b.queries, b.qrels)


def test_splits_have_their_own_corpus_where_files_are_named_so(tmp_path):
    other = [{"_id": "x", "text": "new town"}]
    folder = write(
        tmp_path / "s", corpus__test_00000=CORPUS, corpus__dev_00000=other, queries=QUERIES, qrels__test_00000=QRELS,
        qrels__dev_00000=[{"query-id": "q3", "corpus-id": "x", "score": 1}],
    )  # fmt: skip
    assert set(read_dataset(folder).documents) == {"007", "7"}
    assert set(read_dataset(folder, split="dev").documents) == {"x"}
    with pytest.raises(UsageError, match="no split 'train'"):
        read_dataset(folder, split="train")


def test_pictures_and_both_sides_of_an_index(tmp_path):
    pictures = [
        {"_id": "a", "image": png(10), "modality": "image"},
        {"_id": "b", "image": png(240), "modality": "image"},
    ]
    qrels = [{"query-id": "q1", "corpus-id": "a", "score": 1}]
    folder = write(tmp_path / "i", corpus=pictures, queries=QUERIES, qrels=qrels)
    data = read_dataset(folder)
    assert data.modalities == ("image", "text")
    assert str(data.documents["b"]) == f"{folder}/corpus.parquet#2"
    listed = read_source(folder, frozenset({"image"}))
    assert (listed.kind, [entry.id for entry in listed.entries]) == ("mteb", ["a", "b"])
    assert np.allclose(listed.entries[1].read_pixels(), 240 / 255)
    report = score(folder, EvalOptions(EncoderOptions(str(dual_folder(tmp_path / "clip")))))
    assert "ndcg@10" in report.items[0].metrics
    assert report.exit_code == 0


def test_pictures_win_over_their_texts_and_say_so(tmp_path):
    rows = [{"_id": "a", "image": png(1), "text": "x", "modality": "image,text"}]
    data = read_dataset(
        write(tmp_path / "b", corpus=rows, queries=QUERIES, qrels=[{"query-id": "q1", "corpus-id": "a", "score": 1}])
    )
    assert data.modalities[0] == "image"
    assert any("a text beside the picture" in warning for warning in data.warnings)


def test_scores_are_those_of_the_same_set_in_beir(tmp_path):
    model = EvalOptions(EncoderOptions(str(sentence_folder(tmp_path / "bert"))))
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text(
        '{"_id": "007", "title": "Old", "text": "town"}\n{"_id": "7", "text": "a dog"}\n'
    )
    (beir / "queries.jsonl").write_text('{"_id": "q1", "text": "the old town"}\n{"_id": "q2", "text": "dog"}\n')
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t007\t1\nq2\t7\t2\n")
    assert score(whole(tmp_path / "m"), model).items[0].metrics == score(beir, model).items[0].metrics


MIXED = [{"_id": "a", "image": png(1), "modality": "image"}, {"_id": "b", "text": "x", "modality": "text"}]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"queries": []}, "holds no rows"),
        ({"corpus": [*CORPUS, {"_id": "7", "text": "again"}]}, "row 3: the id '7' was there before"),
        ({"corpus": [{"_id": "a", "title": None}]}, ""),
        (
            {
                "corpus": [
                    {"_id": "a", "image": png(1), "modality": "image"},
                    {"_id": "b", "text": "x", "modality": "text"},
                ]
            },
            "mixes",
        ),
        ({"qrels": [{"query-id": "q1", "corpus-id": "7", "score": 0.5}]}, "0.5 is no whole number"),
        ({"qrels": [{"query-id": "q1", "corpus-id": "7", "score": None}]}, "None is no whole number"),
        ({"qrels": [{"query": "q1", "corpus-id": "7", "score": 1}]}, "has no 'query-id'"),
        ({"qrels": [{"query-id": "zz", "corpus-id": "7", "score": 1}]}, "judges none of its queries"),
    ],
)
def test_refused(tmp_path, change, what):
    parts = dict(corpus=CORPUS, queries=QUERIES, qrels=QRELS) | change
    if not what:
        assert read_dataset(write(tmp_path, **parts | {"qrels": [QRELS[0] | {"corpus-id": "a"}]})).documents == {
            "a": ""
        }
        return
    with pytest.raises(InputError, match=what):
        read_dataset(write(tmp_path, **parts))


def test_missing_parts(tmp_path):
    with pytest.raises(InputError, match="no judgements"):
        read_dataset(write(tmp_path / "a", corpus=CORPUS, queries=QUERIES))
    with pytest.raises(InputError, match="no queries"):
        read_dataset(write(tmp_path / "b", corpus=CORPUS, qrels=QRELS))
    with pytest.raises(InputError, match="Name the MTEB folder"):
        read_dataset(tmp_path / "b" / "corpus.parquet", kind="mteb")
