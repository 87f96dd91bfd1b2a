"""`attn retrieve` as users type it, with a small text encoder of random weights: equal texts have equal vectors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from encoder_folders import dual_folder, sentence_folder
from PIL import Image

WORDS = ("cat", "dog", "river", "town", "old", "runs", "sits", "red", "photo", "blue")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(sentence_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    return str(sentence_folder(tmp_path_factory.mktemp("models") / "other", {"pooling_mode_cls_token": True}))


@pytest.fixture
def notes(tmp_path):
    """Ten texts, named after what they say."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for word in WORDS:
        (folder / f"{word}.txt").write_text(f"on {word} in air")
    return folder


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"0{i}", "title": "", "text": f"on {w} in air"}) + "\n" for i, w in enumerate(WORDS))
    )
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": f"on {w} in air"}) + "\n" for i, w in enumerate(WORDS))
    )
    rows = "".join(f"q{i}\t0{i}\t1\n" for i in range(len(WORDS)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """CLIP of random weights: equal photos have equal vectors."""
    return str(dual_folder(tmp_path_factory.mktemp("models") / "clip"))


@pytest.fixture
def photos(tmp_path):
    """Six photos of random blocks and a file that is none."""
    rng = np.random.default_rng(4)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        blocks = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(blocks).resize((80, 60), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    return folder


def counts(ran):
    return ran.report["items"][0]["metrics"]


def test_index_then_search_finds_the_same_text(cli, notes, model):
    ran = cli("retrieve", "index", "notes", "-o", "i", "--model", model, "--json")
    assert ran.code == 0, ran.stderr
    assert counts(ran)["added"] == counts(ran)["entries"] == 10
    for word in WORDS:
        ran = cli("retrieve", "search", "i", f"on {word} in air", "--top", "3", "--json")
        assert ran.code == 0, ran.stderr
        hits = ran.report["items"][0]["details"]["hits"]
        assert len(hits) == 3
        assert hits[0]["id"] == f"{word}.txt"
        assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
        assert hits[0]["text"] == f"on {word} in air"


def test_without_a_place_the_index_is_beside_its_gallery_and_that_is_told(cli, notes, model, tmp_path):
    for _ in range(2):  # the second time it is there already
        ran = cli("retrieve", "index", "notes/", "--model", model)
        assert ran.code == 0, ran.stderr
        assert "attn: the index is notes.index, beside its gallery" in ran.stderr
    told = cli("retrieve", "info", "notes.index")
    assert told.stdout.count("notes.index") == 2  # as the title, and as what it is
    assert json.loads(cli("retrieve", "info", "notes.index", "--json").stdout)["index"] == "notes.index"
    for gallery in (["notes", "notes"], ["-"]):
        refused = cli("retrieve", "index", *gallery, "--model", model, stdin="notes\n")
        assert refused.code == 2
        assert "names no place for an index. Give one" in refused.stderr
        assert "--output" in refused.stderr


def test_the_same_command_embeds_only_what_changed(cli, notes, model):
    cli("retrieve", "index", "notes", "-o", "i", "--model", model)
    again = cli("retrieve", "index", "notes", "-o", "i", "--model", model, "--json")
    assert counts(again)["unchanged"] == 10
    assert counts(again)["added"] == counts(again)["changed"] == counts(again)["removed"] == 0
    (notes / "cat.txt").write_text("something else altogether")
    (notes / "dog.txt").unlink()
    (notes / "new.txt").write_text("a new one")
    ran = cli("retrieve", "index", "notes", "-o", "i", "--model", model, "--json")
    assert (counts(ran)["added"], counts(ran)["changed"], counts(ran)["removed"]) == (1, 1, 1)
    assert counts(ran)["entries"] == 10
    best = cli("retrieve", "search", "i", "something else altogether", "--top", "1", "--json")
    assert best.report["items"][0]["details"]["hits"][0]["id"] == "cat.txt"
    gone = cli("retrieve", "search", "i", "on dog in air", "--top", "10", "--json")
    assert "dog.txt" not in [hit["id"] for hit in gone.report["items"][0]["details"]["hits"]]
    (notes / "new.txt").unlink()
    kept = cli("retrieve", "index", "notes", "-o", "i", "--model", model, "--keep-missing", "--json")
    assert counts(kept)["removed"] == 0
    assert counts(kept)["entries"] == 10


def test_an_index_refuses_another_model_and_another_temperature(cli, notes, model, other_model):
    cli("retrieve", "index", "notes", "-o", "i", "--model", model)
    for verb in (["search", "i", "cat"], ["index", "notes", "-o", "i"]):
        ran = cli("retrieve", *verb, "--model", other_model)
        assert ran.code == 2
        assert model in ran.stderr
        assert other_model in ran.stderr
    ran = cli("retrieve", "search", "i", "cat", "--temperature", "0.5")
    assert ran.code == 2
    assert "temperature 1.0 / 0.5" in ran.stderr
    rebuilt = cli("retrieve", "index", "notes", "-o", "i", "--model", other_model, "--rebuild")
    assert rebuilt.code == 0, rebuilt.stderr
    assert cli("retrieve", "search", "i", "cat", "--model", other_model).code == 0


def test_without_a_model_the_gallery_says_which(cli, notes, photos, model, clip, monkeypatch):
    monkeypatch.setattr("attn.core.retrieve.verbs.index.MODEL", model)
    monkeypatch.setattr("attn.core.retrieve.verbs.index.IMAGE_MODEL", clip)
    (photos / "broken.jpg").unlink()
    listed = "\n".join(str(path) for path in photos.iterdir())
    for gallery, text, expected in (("notes", "", model), ("photos", "", clip), ("-", listed, clip)):
        ran = cli("retrieve", "index", gallery, "-o", f"{gallery}.i", "--json", stdin=text)
        assert ran.code == 0, ran.stderr
        assert ran.report["summary"]["model"] == expected
    again = cli("retrieve", "index", "notes", "-o", "photos.i", "--json")  # the index's own comes first
    assert again.report["summary"]["model"] == clip
    assert counts(again)["added"] == 10
    (notes.parent / "rows.jsonl").write_text('{"id": "a", "text": "on cat", "image": "photos/0.png"}\n')
    both = cli("retrieve", "index", "rows.jsonl", "-o", "rows.i", "--json")
    assert both.report["summary"]["model"] == model  # it can be read as texts


def test_the_temperature_changes_vectors_and_is_remembered(cli, notes, model):
    for name, extra in (("one", []), ("half", ["--temperature", "0.5"])):
        assert cli("retrieve", "index", "notes", "-o", name, "--model", model, *extra).code == 0
    score = {}
    for name in ("one", "half"):
        ran = cli("retrieve", "search", name, "cat and dog", "--json", "--top", "1")
        assert ran.code == 0, ran.stderr
        score[name] = ran.report["items"][0]["metrics"]["best_score"]
    assert abs(score["one"] - score["half"]) > 1e-4
    told = json.loads(cli("retrieve", "info", "half", "--json").stdout)
    assert told["fingerprint"]["temperature"] == 0.5
    assert told["entries"] == 10


def test_formats_of_the_hits(cli, notes, model, tmp_path):
    cli("retrieve", "index", "notes", "-o", "i", "--model", model)
    (tmp_path / "q.tsv").write_text("007\ton cat in air\n8 b\ton dog in air\n")
    trec = cli("retrieve", "search", "i", "--queries", "q.tsv", "--format", "trec", "--top", "2")
    rows = [line.split() for line in trec.stdout.splitlines()]
    assert [row[:4] for row in rows[:2]] == [["007", "Q0", "cat.txt", "1"], ["007", "Q0", rows[1][2], "2"]]
    assert rows[2][:4] == ["8%20b", "Q0", "dog.txt", "1"]
    lines = cli("retrieve", "search", "i", "on cat in air", "--format", "jsonl").stdout.splitlines()
    assert json.loads(lines[0])["hits"][0]["path"] == os.path.join("notes", "cat.txt")
    paths = cli("retrieve", "search", "i", "on cat in air", "--format", "paths0", "--top", "2").stdout.split("\0")
    assert paths[0] == os.path.join("notes", "cat.txt")
    assert len(paths) == 3
    ran = cli("retrieve", "search", "i", "on cat in air", "--format", "tsv", "-o", "out.tsv")
    assert ran.code == 0
    assert (tmp_path / "out.tsv").read_text().splitlines()[1].startswith("1\t1\tcat.txt\t")
    assert cli("retrieve", "search", "i", "on <b>cat</b>", "--sheet", "s.html").code == 0
    page = (tmp_path / "s.html").read_text()
    assert "on cat in air" in page
    assert "<b>cat" not in page


def test_where_keeps_only_what_fits(cli, notes, model):
    cli("retrieve", "index", "notes", "-o", "i", "--model", model)
    ran = cli("retrieve", "search", "i", "on cat in air", "--where", "path LIKE '%river%'", "--json")
    assert [hit["id"] for hit in ran.report["items"][0]["details"]["hits"]] == ["river.txt"]
    nothing = cli("retrieve", "search", "i", "on cat in air", "--where", "path = 'x'")
    assert nothing.code == 1
    wrong = cli("retrieve", "search", "i", "on cat in air", "--where", "path ==")
    assert wrong.code == 2


def test_bad_entries_are_named_and_the_others_are_done(cli, notes, model):
    (notes / "broken.txt").write_bytes(b"\xff\xfe\xfa")
    (notes / "empty.txt").write_text("")
    (notes / "long.txt").write_text("very long " * 50)
    ran = cli("retrieve", "index", "notes", "-o", "i", "--model", model, "--json")
    assert ran.code == 1
    failed = [item for item in ran.report["items"] if item["status"] == "failed"]
    assert len(failed) == 1
    assert "broken.txt" in failed[0]["input"]
    assert "UTF-8" in failed[0]["error"]
    assert counts(ran)["entries"] == 12
    assert counts(ran)["truncated"] == counts(ran)["empty"] == 1
    assert "longer than the model's 16 tokens" in " ".join(ran.report["items"][0]["warnings"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["index", "nothing", "-o", "i"], "holds no"),
        (["index", "absent", "-o", "i"], "does not exist"),
        (["index", "notes", "-o", "notes", "--rebuild"], "is no part of an index"),
        (["index", "notes", "-o", "notes"], "no"),
        (["search", "absent", "cat"], "attn retrieve index"),
        (["search", "i", ""], "query is empty"),
        (["search", "i"], "nothing to search for"),
        (["search", "i", "cat", "--format", "trek"], "Did you mean trec?"),
        (["search", "i", "cat", "--sheet", "x.pdf"], "x.html"),
        (["search", "i", "--image", "photo.jpg"], "texts only"),
        (["search", "i", "cat", "--explain"], "cannot explain"),
        (["eval", "absent"], "does not exist"),
        (["eval", "notes"], "holds no data set"),
        (["eval", "set", "--temperature", "warm"], "no list of numbers"),
        (["eval", "set", "--metrics", "accuracy"], "accuracy"),
        (["eval", "set", "--run", "notes"], "--run notes: is a directory"),
        (["search", "i", "cat", "--sheet", "notes/cat.txt/s.html"], "is a file, not a directory"),
        (["search", "i", "--queries", "notes"], "notes: is a directory"),
        (["search", "i", "-", "--queries", "-"], "can be read once"),
    ],
)
def test_wrong_calls_say_what_to_do(cli, notes, beir, model, tmp_path, arguments, expected):
    (tmp_path / "nothing").mkdir()
    write_photo(tmp_path / "photo.jpg")
    cli("retrieve", "index", "notes", "-o", "i", "--model", model)
    extra = [] if arguments[0] == "search" else ["--model", model]
    ran = cli("retrieve", *arguments, *extra)
    assert ran.code in (1, 2)
    assert expected in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert (notes / "cat.txt").exists()


def write_photo(path):
    Image.new("RGB", (40, 30), (200, 10, 10)).save(path)


def test_a_damaged_index_says_which_file_and_what_to_do(cli, notes, model, tmp_path):
    cli("retrieve", "index", "notes", "-o", "i", "--model", model)
    shard = next((tmp_path / "i").glob("vectors-*.npy"))
    shard.write_bytes(shard.read_bytes()[:-8])
    for verb in (["search", "i", "cat"], ["index", "notes", "-o", "i", "--model", model]):
        ran = cli("retrieve", *verb)
        assert ran.code in (1, 2)
        assert shard.name in ran.stderr
        assert "--rebuild" in ran.stderr
    assert cli("retrieve", "index", "notes", "-o", "i", "--model", model, "--rebuild").code == 0
    assert cli("retrieve", "search", "i", "cat").code == 0


def test_a_second_writer_is_refused(cli, notes, model, tmp_path):
    from attn.core.retrieve.store import open_store

    cli("retrieve", "index", "notes", "-o", "i", "--model", model)
    first = open_store(tmp_path / "i")
    first.delete(["cat.txt"])  # takes the right to write, and keeps it
    child = "import sys; sys.argv[0] = 'attn'; from attn.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", child, "retrieve", "index", "notes", "-o", "i", "--model", model, "--threads", "1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    first.close()
    assert done.returncode == 2, done.stderr
    assert str(os.getpid()) in done.stderr
    assert cli("retrieve", "index", "notes", "-o", "i", "--model", model).code == 0


def test_a_killed_run_goes_on_and_loses_nothing(cli, tmp_path, model):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"_id": str(i), "text": f"number {i}"}) + "\n" for i in range(6000)))
    arguments = ["retrieve", "index", "corpus.jsonl", "-o", "i", "--model", model, "--threads", "1"]
    process = subprocess.Popen([sys.executable, "-m", "attn", *arguments], cwd=tmp_path)
    deadline = time.monotonic() + 200
    manifest = tmp_path / "i" / "attn-store.json"
    while not (manifest.exists() and "vectors-" in manifest.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = json.loads(cli("retrieve", "info", "i", "--json").stdout)["entries"]
    assert 0 < left < 6000
    ran = cli(*arguments, "--json")
    assert ran.code == 0, ran.stderr
    assert counts(ran)["entries"] == 6000
    assert counts(ran)["added"] + counts(ran)["unchanged"] == 6000
    assert counts(ran)["unchanged"] >= left


@pytest.mark.slow
def test_workers_make_the_same_index(attn, cli, notes, model):
    cli("retrieve", "index", "notes", "-o", "one", "--model", model)
    ran = attn("retrieve", "index", "notes", "-o", "two", "--model", model, "--workers", "2", "--threads", "1")
    assert ran.code == 0, ran.stderr
    rows = [
        cli("retrieve", "search", name, "on cat in air", "--format", "trec").stdout for name in ("one", "two")
    ]  # fmt: skip
    assert rows[0] == rows[1]


def test_eval_of_a_beir_folder(cli, beir, model, tmp_path):
    ran = cli("retrieve", "eval", "set", "--model", model, "--json", "--run", "run.txt")
    assert ran.code == 0, ran.stderr
    metrics = ran.report["items"][0]["metrics"]
    assert metrics["ndcg@10"] == metrics["mrr@10"] == metrics["hit@1"] == pytest.approx(100)
    assert len((tmp_path / "run.txt").read_text().splitlines()) == 100
    rows = cli("retrieve", "eval", "set", "--model", model, "--temperature", "1,0.5", "--json").report["items"]
    assert len(rows) == 2
    assert {row["metric"] for row in rows[1]["details"]["differences"]} >= {"ndcg@10", "map@100"}
    told = cli("retrieve", "eval", "set", "--model", model, "--diagnose", "--json").report["summary"]
    assert told["length_buckets"]
    assert told["length_layers"]


def test_eval_says_what_its_figures_are_of(cli, beir, model):
    with (beir / "qrels" / "test.tsv").open("a") as file:
        file.write("07\t03\t1\nzeros\t03\t0\n")
    with (beir / "queries.jsonl").open("a") as file:
        file.write('{"_id": "07", "text": "on photo in air"}\n{"_id": "zeros", "text": "on red in air"}\n')
    ran = cli("retrieve", "eval", "set", "--model", model, "--json", "--metrics", "hit@1,recall@10")
    assert ran.report["items"][0]["metrics"]["hit@1"] == pytest.approx(1000 / 12)
    assert "1 query has judgements of 0 only: worth 0" in ran.stderr
    assert "1 query has the id of a document: that one is left out of its hits, as in BEIR" in ran.stderr
    ran = cli("retrieve", "eval", "set", "--model", model, "--json", "--answerable", "--keep-identical")
    assert ran.report["items"][0]["metrics"]["hit@1"] == pytest.approx(1000 / 11)
    assert "1 query has no relevant document: left out" in ran.stderr
    assert "BEIR" not in ran.stderr
    assert (
        "no relevant document: in neither half" in cli("retrieve", "tune-temperature", "set", "--model", model).stderr
    )


def test_photos_by_photo_and_by_sentence(cli, photos, clip, tmp_path):
    ran = cli("retrieve", "index", "photos", "-o", "i", "--model", clip, "--json")
    assert ran.code == 1
    assert counts(ran)["entries"] == 6
    assert [item["input"] for item in ran.report["items"] if item["status"] == "failed"] == ["photos/broken.jpg"]
    for number in range(6):
        ran = cli("retrieve", "search", "i", "--image", f"photos/{number}.png", "--top", "2", "--json")
        assert ran.code == 0, ran.stderr
        best = ran.report["items"][0]["details"]["hits"][0]
        assert (best["id"], best["score"]) == (f"{number}.png", pytest.approx(1, abs=1e-4))
    ran = cli("retrieve", "search", "i", "a red photo of a <i>cat</i>", "--sheet", "s.html", "--json")
    assert ran.code == 0, ran.stderr
    assert len(ran.report["items"][0]["details"]["hits"]) == 6
    page = (tmp_path / "s.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert "<i>cat" not in page
    (tmp_path / "q.jsonl").write_text('{"_id": "q", "text": "photos/1.png"}')  # words, not a file to show
    os.link(photos / "1.png", tmp_path / os.fsdecode(b"odd\xff.png"))
    asked = ("--queries", "q.jsonl", "--image", os.fsdecode(b"odd\xff.png"))
    assert cli("retrieve", "search", "i", *asked, "--sheet", "s.html", "--top", "1").code == 0
    assert (tmp_path / "s.html").read_text().count('alt="query"') == 1
    missing = cli("retrieve", "search", "i", "--image", "photos/broken.jpg", "--image", "photos/1.png")
    assert missing.code == 1
    assert "photos/broken.jpg" in missing.stderr
    assert "1.png" in missing.stdout


def test_eval_of_photos_with_captions_in_both_directions(cli, photos, clip, tmp_path):
    rows = [{"image": f"{i}.png", "captions": [f"a {w} photo", f"the {w} town"]} for i, w in enumerate(WORDS[:6])]
    (photos / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (photos / "broken.jpg").unlink()
    ran = cli("retrieve", "eval", "photos", "--model", clip, "--json")
    assert ran.code == 0, ran.stderr
    metrics = ran.report["items"][0]["metrics"]
    assert metrics["t2i_r@10"] == 100  # six photos: all of them are among the first ten
    six = [metrics[f"{way}_r@{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)]
    assert metrics["mr"] == pytest.approx(sum(six) / 6)
    assert ran.report["summary"]["queries"] == 12


def test_tune_temperature_reports_the_half_that_had_no_say(cli, beir, model):
    ran = cli("retrieve", "tune-temperature", "set", "--model", model, "--grid", "0.5,0.9", "--json")
    assert ran.code == 0, ran.stderr
    item = ran.report["items"][0]
    assert item["metrics"]["temperature"] == 1  # every one finds everything: the model as it is wins
    assert item["metrics"]["held_out"] == pytest.approx(100)
    assert [row["temperature"] for row in ran.report["summary"]["temperatures"]] == [1, 0.9, 0.5]


def test_explain_says_which_words_and_patches_made_the_match(cli, tmp_path):
    from attn.core.retrieve.gadms.people import make_people, write_people

    people = write_people({"train": make_people(12, 1), "test": make_people(4, 2, skip=12)}, tmp_path / "people")
    trained = cli("train", "ga-dms", "--data", people, "-o", "run", "--epochs", "2", "--batch", "8", "--hold-out", "3",
                      "-q")  # fmt: skip
    assert trained.code == 0, trained.stderr
    rng = np.random.default_rng(6)
    (tmp_path / "crops").mkdir()
    for number in range(3):
        blocks = rng.integers(0, 255, (8, 4, 3)).astype(np.uint8)
        Image.fromarray(blocks).resize((32, 64), Image.Resampling.NEAREST).save(tmp_path / "crops" / f"{number}.png")
    assert cli("retrieve", "index", "crops", "-o", "i", "--model", "run/model.safetensors").code == 0
    ran = cli("retrieve", "search", "i", "a man in a red coat", "--explain", "--sheet", "s.html", "--json")
    assert ran.code == 0, ran.stderr
    details = ran.report["items"][0]["details"]
    assert [row["word"] for row in details["words"]] == "a man in a red coat".split()
    assert all(0 <= row["score"] <= 1 for row in details["words"])
    for hit in details["hits"]:
        patches = np.array(hit["patches"])
        assert patches.ndim == 2
        assert patches.min() == 0
        assert patches.max() == pytest.approx(1)
    assert (tmp_path / "s.html").read_text().count("<mark") == 6
