"""Data sets of every format: what is read, what is warned of, and what is refused with file and line."""

import gzip
import json
from pathlib import Path

import pytest

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.data.formats import KINDS, read_captioned, read_dataset
from attn.core.retrieve.score.metrics import evaluate


def write_beir(folder: Path, corpus: str | None = None, queries: str | None = None, **qrels: str) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        corpus or '{"_id": "007", "title": "Wing", "text": "of a plane"}\n{"_id": "7", "text": "a bird"}\n'
    )
    (folder / "queries.jsonl").write_text(queries or '{"_id": "1", "text": "aircraft"}\n{"_id": "2", "text": "x"}\n')
    for split, text in (qrels or {"test": "query-id\tcorpus-id\tscore\n1\t007\t2\n"}).items():
        (folder / "qrels" / f"{split}.tsv").write_text(text)
    return folder


def write_json(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


KARPATHY = {
    "images": [
        {"filename": "b.jpg", "split": "test", "sentences": [{"raw": "a boat"}, {"raw": "the boat"}]},
        {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "a tree"}]},
        {"filename": "c.jpg", "split": "train", "sentences": [{"raw": "a car"}]},
    ]
}
PERSON = [
    {
        "split": "test",
        "captions": ["a man", "a man in grey"],
        "file_path": "cam/1.jpg",
        "id": 1,
        "processed_tokens": [],
    },
    {"split": "test", "captions": ["he wears grey"], "file_path": "cam/2.jpg", "id": 1},
    {"split": "test", "captions": ["a woman"], "file_path": "cam/3.jpg", "id": 2},
    {"split": "train", "captions": ["a child"], "file_path": "cam/4.jpg", "id": 3},
]


def test_cranfield(data_dir):
    data = read_dataset(data_dir / "text" / "cranfield")
    assert (data.name, data.kind, data.split, data.modalities) == ("cranfield", "beir", "test", ("text", "text"))
    assert (len(data.documents), len(data.queries)) == (1400, 225)
    title, text = (
        json.loads((data_dir / "text/cranfield/corpus.jsonl").open().readline())[k] for k in ("title", "text")
    )
    assert data.documents["1"] == f"{title} {text}"
    assert sum(map(len, data.qrels.values())) == sum(1 for _ in (data_dir / "text/cranfield/qrels/test.tsv").open()) - 1


def test_image_text(data_dir):
    data = read_dataset(data_dir / "image_text")
    assert (data.kind, data.modalities, len(data.documents), len(data.queries)) == (
        "captions",
        ("image", "text"),
        60,
        300,
    )
    assert all(path.is_file() for path in data.documents.values())
    assert data.qrels["images/000000000285.jpg#3"] == {"images/000000000285.jpg": 1}
    assert data.queries["images/000000000285.jpg#1"] == "The large brown bear has a black nose."
    assert "Attribution" in data.licence
    assert sum(int(n) for n in data.licence.replace(")", "(").split("(")[1::2]) == 60


def test_beir_ids_are_strings_and_titles_may_be_missing(tmp_path):
    data = read_dataset(write_beir(tmp_path / "set"))
    assert data.documents == {"007": "Wing of a plane", "7": "a bird"}
    assert data.queries == {"1": "aircraft"}
    assert data.qrels == {"1": {"007": 2}}
    assert data.warnings == ("1 query has no judgement in 'test': left out",)


def test_beir_packed_with_mark_and_crlf(tmp_path):
    folder = write_beir(tmp_path / "set")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        plain = folder / name
        data = b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n")
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        plain.unlink()
    assert read_dataset(folder).qrels == {"1": {"007": 2}}


def test_beir_warns_of_unknown_ids_and_empty_texts(tmp_path):
    corpus = '{"_id": "a", "text": ""}\n{"_id": "b", "title": null, "text": "b"}\n{"_id": "c", "title": "only"}\n'
    data = read_dataset(write_beir(tmp_path / "set", corpus, test="q\tc\ts\n1\ta\t1\n1\tgone\t1\n9\ta\t1\n"))
    assert data.documents == {"a": "", "b": "b", "c": "only"}
    assert data.qrels == {"1": {"a": 1, "gone": 1}}
    assert evaluate(data.qrels, {"1": {"a": 1.0}}, ["recall@5"]).values["recall@5"] == 0.5
    text = "\n".join(data.warnings)
    assert "1 document is empty" in text
    assert "1 judgement names a document that the corpus does not hold" in text
    assert "1 judged query is not among the queries (such as '9'): left out" in text


def test_splits_are_chosen_or_named(tmp_path):
    header, row = "query-id\tcorpus-id\tscore\n", "1\t7\t1\n"
    only = write_beir(tmp_path / "one", dev=header + row)
    assert read_dataset(only).split == "dev"
    two = write_beir(tmp_path / "two", dev=header + row, train=header + row)
    with pytest.raises(UsageError, match=r"no split 'test'\. Choose with split: dev, train"):
        read_dataset(two)
    with pytest.raises(UsageError, match=r"no split 'trian'\. Did you mean train"):
        read_dataset(two, split="trian")
    assert read_dataset(two, split="train").qrels == {"1": {"7": 1}}


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ('{"_id": "1", "text": "a"}\n{"_id": "1", "text": "b"}\n', "line 2: the id '1' is that of line 1, too"),
        ('{"_id": "1", "text": "a"}\n{"_id": "2", "text": \n', "line 2 is no JSON"),
        ('["1", "a"]\n', "line 1 is no JSON object but a list"),
        ('{"text": "a"}\n', "line 1 has no '_id'"),
        ('{"_id": "", "text": "a"}\n', "line 1: '_id' is empty"),
        ('{"_id": 1.5, "text": "a"}\n', "line 1: '_id' is a number"),
        ('{"_id": true, "text": "a"}\n', "line 1: '_id' is true or false"),
        ('{"_id": "1", "text": ["a"]}\n', "line 1: 'text' is a list, not a string"),
        ('{"_id": "1"}\n', "line 1 has no 'text'"),
        ('{"_id": "1", "text": "\\ud800"}\n', "half a character"),
        ("\n \n", "holds no lines"),
    ],
)
def test_malformed_corpus(tmp_path, corpus, message):
    folder = write_beir(tmp_path / "set", corpus)
    with pytest.raises(InputError, match=message) as error:
        read_dataset(folder)
    assert str(folder / "corpus.jsonl") in str(error.value)
    assert error.value.fix


def test_unreadable_bytes_name_the_line(tmp_path):
    folder = write_beir(tmp_path / "set")
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "1", "text": "a"}\n{"_id": "2", "text": "\xff"}\n')
    with pytest.raises(InputError, match="line 2 is not UTF-8"):
        read_dataset(folder)
    (folder / "corpus.jsonl").write_bytes(gzip.compress(b'{"_id": "1", "text": "a"}\n')[:-12])
    with pytest.raises(InputError, match="damaged gzip"):
        read_dataset(folder)


def test_missing_parts_of_a_beir_folder(tmp_path):
    folder = write_beir(tmp_path / "set")
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(InputError, match="no judgements"):
        read_dataset(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"no queries\.jsonl"):
        read_dataset(folder)
    strangers = write_beir(tmp_path / "other", test="query-id\tcorpus-id\tscore\n55\t7\t1\n")
    with pytest.raises(InputError, match="judges none of its queries"):
        read_dataset(strangers)


def test_karpathy_and_priorclip(tmp_path):
    path = write_json(tmp_path / "dataset_x.json", KARPATHY)
    touch(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    data = read_dataset(tmp_path)
    assert (data.kind, data.split, list(data.documents)) == ("karpathy", "test", ["b.jpg", "a.jpg"])
    assert data.documents["a.jpg"] == tmp_path / "images" / "a.jpg"
    assert data.queries == {"b.jpg#0": "a boat", "b.jpg#1": "the boat", "a.jpg#0": "a tree"}
    assert data.qrels["b.jpg#1"] == {"b.jpg": 1}
    assert data.warnings == ()
    sensing = read_dataset(path, kind="priorclip")
    assert list(sensing.documents) == ["a.jpg", "b.jpg"]
    assert sensing.queries["b.jpg#1"] == "The boat"
    assert read_dataset(path, split="train").queries == {"c.jpg#0": "a car"}


def test_other_direction(tmp_path):
    back = read_dataset(write_json(tmp_path / "x.json", KARPATHY)).reversed()
    assert back.modalities == ("text", "image")
    assert back.qrels == {"b.jpg": {"b.jpg#0": 1, "b.jpg#1": 1}, "a.jpg": {"a.jpg#0": 1}}
    assert evaluate(back.qrels, {"b.jpg": {"b.jpg#1": 1.0, "a.jpg#0": 2.0}}, ["hit@1", "hit@2"]).values == {
        "hit@1": 0,
        "hit@2": 0.5,
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [("reid_raw.json", "cuhk-pedes"), ("ICFG-PEDES.json", "icfg-pedes"), ("data_captions.json", "rstpreid")],
)
def test_person_sets(tmp_path, name, kind):
    field = "img_path" if kind == "rstpreid" else "file_path"
    write_json(tmp_path / name, [{(field if k == "file_path" else k): v for k, v in one.items()} for one in PERSON])
    write_json(tmp_path / "readme.json", [])  # the folder's known file wins
    touch(tmp_path / "imgs" / "cam", "1.jpg", "2.jpg", "3.jpg")
    data = read_dataset(tmp_path)
    assert data.kind == kind
    assert list(data.documents) == ["cam/1.jpg", "cam/2.jpg", "cam/3.jpg"]
    assert data.documents["cam/1.jpg"] == tmp_path / "imgs" / "cam" / "1.jpg"
    assert data.qrels["cam/2.jpg#0"] == {"cam/1.jpg": 1, "cam/2.jpg": 1}  # every image of that person
    assert data.qrels["cam/3.jpg#0"] == {"cam/3.jpg": 1}
    assert "research only" in data.licence
    assert data.warnings == ()


def test_webperson_pairs_are_their_own_identities(tmp_path):
    value = [{"p/1.jpg": {"caption1": "a man", "caption2": "a tall man"}}, {"p/2.jpg": {"caption1": "a woman"}}]
    data = read_dataset(write_json(tmp_path / "web.json", value))
    assert data.kind == "webperson"
    assert data.queries == {"p/1.jpg#0": "a man", "p/1.jpg#1": "a tall man", "p/2.jpg#0": "a woman"}
    assert data.qrels["p/1.jpg#1"] == {"p/1.jpg": 1}


def test_pir_lists(tmp_path):
    evaluation = [
        {"image": "park_1.tif", "caption": ["a park", "trees"]},
        {"image": "port_2.tif", "caption": ["a port"]},
    ]
    data = read_dataset(write_json(tmp_path / "rsitmd_test.json", evaluation), split="test")
    assert data.kind == "pir"
    assert data.qrels["park_1.tif#1"] == {"park_1.tif": 1}
    assert any("no splits" in text for text in data.warnings)
    training = [
        {"image": "park_1.tif", "caption": "a park", "image_id": "park_1", "label": 0},
        {"image": "park_1.tif", "caption": "trees", "image_id": "park_1", "label": 0},
    ]
    joined = read_dataset(write_json(tmp_path / "train.json", training))
    assert joined.queries == {"park_1.tif#0": "a park", "park_1.tif#1": "trees"}
    assert "1 entry repeats an image: its captions were joined" in joined.warnings


def test_generic_lines(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"image": "a.png", "captions": ["one", ""], "id": 5, "split": "test"},
        {"image": "b.png", "captions": ["one"], "id": "5", "split": "test"},
        {"image": "c.png", "caption": "one", "id": "6", "split": "test"},
        {"image": "d.png", "captions": [], "id": "7", "split": "test"},
        {"image": "e.png", "captions": ["two"], "split": "train"},
        {"image": "f.png", "captions": ["two"]},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    touch(tmp_path, "a.png", "b.png", "c.png")
    data = read_dataset(path)
    assert data.qrels["b.png#0"] == {"a.png": 1, "b.png": 1}
    text = "\n".join(data.warnings)
    assert "1 image is not there" in text
    assert str(tmp_path / "d.png") in text
    assert "1 image has no caption" in text
    assert "1 entry has no split" in text
    assert "1 caption is empty" in text
    assert "2 captions are word for word those of other images" in text  # "one" of 5 and of 6


def test_named_folder_of_images(tmp_path):
    path = write_json(tmp_path / "x.json", KARPATHY)
    touch(tmp_path / "far", "a.jpg", "b.jpg")
    data = read_dataset(path, images=tmp_path / "far")
    assert data.documents["a.jpg"] == tmp_path / "far" / "a.jpg"
    assert data.warnings == ()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "{", "is no JSON"),
        ("x.json", "[]", "empty list"),
        ("x.json", '{"a": 1}', "no known data set"),
        ("x.json", '{"images": []}', "holds no images"),
        ("x.json", '{"images": [{"split": "test", "sentences": []}]}', "entry 1 has no 'filename'"),
        ("x.json", '{"images": [{"filename": "a", "sentences": [{"tokens": []}]}]}', "entry 1 has no list 'sentences'"),
        ("x.json", '{"images": [{"filename": "a", "sentences": []}]}', "holds no captions"),
        ("x.json", '[{"file_path": "a", "captions": ["a"], "split": "test"}]', "entry 1 has no 'id'"),
        ("x.json", '[{"file_path": "a", "captions": "a", "id": 1}, 5]', "entry 2 is a number, not an object"),
        ("x.json", '[{"file_path": "a", "captions": [1], "id": 1}]', "entry 1 has a 'captions' that is no list"),
        ("x.json", '[{"image": "a", "caption": ["a"]}, {"image": "b"}]', "entry 2 has no 'caption'"),
        ("x.json", '[{"a": {"caption1": "x"}}, {"b": {}}]', "entry 2: 'b' has no 'caption1'"),
        ("x.jsonl", '{"image": "a", "captions": ["x"]}\n{"image": "b"}\n', "line 2 has no 'captions'"),
        ("x.jsonl", '{"captions": ["x"]}\n', "line 1 has no 'image'"),
        ("x.jsonl", "", "holds no images"),
        (
            "x.jsonl",
            '{"image": "a", "captions": ["x"], "id": 1}\n{"image": "a", "captions": ["y"], "id": 2}\n',
            "line 2: image 'a' has the id '2', but '1' before",
        ),
    ],
)
def test_malformed_captions(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_dataset(path)
    assert str(path) in str(error.value)
    assert error.value.fix


def test_folders_that_do_not_tell(tmp_path):
    with pytest.raises(InputError, match="holds no data set"):
        read_dataset(tmp_path)
    write_json(tmp_path / "a.json", KARPATHY)
    write_json(tmp_path / "b.json", KARPATHY)
    with pytest.raises(InputError, match=r"several files .*a\.json, b\.json"):
        read_dataset(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_dataset(tmp_path / "none")
    with pytest.raises(InputError, match="Name the BEIR folder"):
        read_dataset(tmp_path / "a.json", kind="beir")
    with pytest.raises(UsageError, match="Did you mean karpathy"):
        read_dataset(tmp_path / "a.json", kind="karpaty")


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"beir", "mteb"}))
@pytest.mark.parametrize(
    "text", ["null", "3", "[[]]", '{"images": 1}', '[{"image": 1, "file_path": null}]', "[" * 5000]
)
def test_any_kind_refuses_other_json(tmp_path, kind, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError):
        read_captioned(path, kind)
