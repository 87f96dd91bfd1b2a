"""What leaves an index, and what must not: sources that cannot be read now, and paths after a move."""

from __future__ import annotations

import json
import os
import shutil

import pytest

pytest.importorskip("transformers", reason="the text encoders need transformers")

from encoder_folders import sentence_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(sentence_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def index(cli, model):
    """``index(galleries..., code=)``: what came of `attn retrieve index ... -o i`."""

    def run(*arguments, code=0, into="i", **more):
        ran = cli("retrieve", "index", *arguments, "-o", into, "--model", model, "--json", **more)
        assert ran.code == code, ran.stderr
        return ran

    return run


def counts(ran):
    return ran.report["items"][0]["metrics"]


def ids(place):
    from attn.core.retrieve.store import open_store

    store = open_store(place)
    try:
        return sorted(store.entries())
    finally:
        store.close()


def texts(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)


@pytest.fixture
def two(tmp_path, index):
    """Two galleries with entries of the same names, in one index."""
    for name, animal in (("a", "cat"), ("b", "dog")):
        texts(tmp_path / "two" / name, one=f"the {animal} runs", two=f"the {animal} sits")
    assert counts(index("two/a", "two/b"))["entries"] == 4
    return ["two/a/one.txt", "two/a/two.txt", "two/b/one.txt", "two/b/two.txt"]


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_gallery_that_is_not_there_now_keeps_its_entries(two, index, tmp_path, quiet):
    assert ids(tmp_path / "i") == two
    (tmp_path / "two" / "b").rename(tmp_path / "away")
    ran = index("two/a", "two/b", *quiet, code=1)
    assert (counts(ran)["entries"], counts(ran)["removed"], counts(ran)["kept"]) == (4, 0, 2)
    assert ran.stderr == "attn: two/b: does not exist. Check the name. 2 entries of it were kept\n"
    (tmp_path / "away").rename(tmp_path / "two" / "b")
    again = index("./two/b/", str(tmp_path / "two" / "a"))
    assert (counts(again)["entries"], counts(again)["unchanged"]) == (4, 4), "ids do not hang on how it is typed"


def test_a_rebuild_does_not_lose_what_cannot_be_read(two, index, tmp_path):
    (tmp_path / "two" / "b").rename(tmp_path / "away")
    assert "--rebuild would lose" in index("two/a", "two/b", "--rebuild", code=2).stderr
    assert ids(tmp_path / "i") == two
    index("two/a", "--rebuild")
    assert ids(tmp_path / "i") == ["one.txt", "two.txt"]


def test_a_place_that_is_empty_now_is_not_mounted(two, index, tmp_path):
    shutil.rmtree(tmp_path / "two" / "b")
    (tmp_path / "two" / "b").mkdir()
    ran = index("two/a", "two/b", code=1)
    assert "two/b: holds no text to index" in ran.stderr
    assert "2 entries of it were kept (--prune forgets them)" in ran.stderr
    assert ids(tmp_path / "i") == two
    index("two/a", "two/b", "--prune", code=1)
    assert ids(tmp_path / "i") == two[:2]


def test_a_gallery_that_is_not_named_now_stays_until_it_is_pruned(two, index, tmp_path):
    ran = index("two/a")
    assert "2 entries of galleries that were not named now" in ran.stderr
    assert ids(tmp_path / "i") == two
    ran = index("two/a", "--prune", "-q")
    assert ids(tmp_path / "i") == two[:2]
    assert ran.stderr == "attn: i: 2 removed, gone from the gallery: two/b/one.txt, two/b/two.txt\n"
    assert index("two/a", "--prune", "--keep-missing", code=2).stderr.count("exclude each other") == 1


def test_what_a_gallery_does_not_hold_any_more_goes_with_a_word(two, index, tmp_path):
    (tmp_path / "two" / "b" / "one.txt").unlink()
    ran = index("two/a", "two/b", "-q")
    assert ids(tmp_path / "i") == [*two[:2], two[3]]
    assert ran.stderr == "attn: i: 1 removed, gone from the gallery: two/b/one.txt\n"


def test_a_folder_inside_that_cannot_be_listed_keeps_its_entries(index, tmp_path, monkeypatch):
    texts(tmp_path / "g", x="a cat", y="a dog")
    texts(tmp_path / "g" / "sub", z="a town")
    index("g")
    (tmp_path / "g" / "x.txt").unlink()
    real = os.scandir

    def scandir(place):
        if str(place).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    ran = index("g", code=1)
    assert ids(tmp_path / "i") == ["sub/z.txt", "y.txt"], "what was seen to be gone goes, what was not seen stays"
    assert "cannot be listed" in ran.stderr
    assert "1 entry of it was kept" in ran.stderr


def test_a_link_to_a_folder_that_is_not_mounted_keeps_its_entries(index, tmp_path):
    texts(tmp_path / "disk", z="a town")
    texts(tmp_path / "g", x="a cat")
    (tmp_path / "g" / "sub").symlink_to(tmp_path / "disk")
    index("g")
    assert ids(tmp_path / "i") == ["sub/z.txt", "x.txt"]
    (tmp_path / "disk").rename(tmp_path / "away")
    assert "1 entry of it was kept" in index("g", code=1).stderr
    assert ids(tmp_path / "i") == ["sub/z.txt", "x.txt"]


def test_links_are_followed_once(index, tmp_path):
    texts(tmp_path / "g" / "z", x="a cat")
    (tmp_path / "g" / "a").symlink_to("z")
    (tmp_path / "g" / "z" / "up").symlink_to("..")
    ran = index("g")
    assert ids(tmp_path / "i") == ["z/x.txt"]
    assert "g/a is a link to a folder that is in the gallery already" in ran.stderr
    assert "g/z/up is a link to a folder" in ran.stderr


@pytest.mark.parametrize("broken", ['{"id": "a", "text"', '{"id": "a"}', ""])
def test_a_list_with_a_broken_line_keeps_its_entries(index, tmp_path, broken):
    (tmp_path / "g.jsonl").write_text('{"id": "a", "text": "a cat"}\n{"id": "b", "text": "a dog"}\n')
    texts(tmp_path / "g", x="the town")
    index("g.jsonl", "g")
    (tmp_path / "g.jsonl").write_text(broken)
    assert "2 entries of it were kept" in index("g.jsonl", "g", code=1).stderr
    assert ids(tmp_path / "i") == ["a", "b", "x.txt"]


def test_a_table_with_a_broken_block_keeps_its_entries(index, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"id": str(i), "text": f"the cat {i}"} for i in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "g.parquet", row_group_size=20, compression="none")
    texts(tmp_path / "g", x="the town")
    assert counts(index("g.parquet", "g"))["entries"] == 41
    data = bytearray((tmp_path / "g.parquet").read_bytes())
    at = data.rfind(b"the cat 39") - 200
    data[at : at + 200] = bytes(200)
    (tmp_path / "g.parquet").write_bytes(data)
    ran = index("g.parquet", "g", code=1)
    assert "g.parquet: cannot be read as parquet" in ran.stderr
    assert counts(ran)["entries"] == 41


def test_a_file_that_went_bad_keeps_its_entry_and_is_stale(index, cli, tmp_path):
    texts(tmp_path / "g", x="a cat", y="a dog")
    index("g")
    (tmp_path / "g" / "x.txt").write_bytes(b"\xff\xfe")
    ran = index("g", code=1)
    assert "g/x.txt: is not UTF-8" in ran.stderr
    assert "Its entry of before was kept" in ran.stderr
    assert ids(tmp_path / "i") == ["x.txt", "y.txt"]
    (tmp_path / "g" / "x.txt").write_text("red town")
    assert counts(index("g"))["changed"] == 1


def test_single_files_go_when_they_are_gone(index, tmp_path):
    texts(tmp_path / "g", x="a cat", y="a dog", z="a town")
    index("g/x.txt", "g/y.txt", "g/z.txt")
    (tmp_path / "g" / "y.txt").unlink()
    ran = index("g/x.txt")  # as a shell expands g/x*
    assert ids(tmp_path / "i") == ["g/x.txt", "g/z.txt"]
    assert "1 entry of galleries that were not named now" in ran.stderr
    (tmp_path / "g" / "z.txt").unlink()
    (tmp_path / "g" / "x.txt").unlink()
    texts(tmp_path / "h", w="a river")
    index("h")
    assert ids(tmp_path / "i") == ["g/x.txt", "g/z.txt", "w.txt"], "an empty folder may be one that is not mounted"


def test_an_interrupted_run_forgets_nothing(two, index, tmp_path, monkeypatch):
    from dataclasses import replace

    import attn.core.retrieve.verbs.index as module

    (tmp_path / "two" / "b" / "one.txt").unlink()
    real = module.run_batch
    monkeypatch.setattr(module, "run_batch", lambda *args, **named: replace(real(*args, **named), interrupted=True))
    assert counts(index("two/a", "two/b", code=130))["removed"] == 0
    assert ids(tmp_path / "i") == two


def test_an_index_of_an_older_attn_forgets_only_what_it_can_tell(index, cli, tmp_path):
    from attn.core.retrieve.store import open_store

    texts(tmp_path / "g", x="a cat", y="a dog")
    (tmp_path / "l.jsonl").write_text('{"id": "a", "text": "a cat"}\n')
    index("g", "l.jsonl")
    store = open_store(tmp_path / "i")
    (block,) = store.blocks()
    meta = [{k: v for k, v in one.items() if k not in ("gallery", "index_folder")} for one in block.meta]
    meta = [one | ({"path": os.path.relpath(one["path"], tmp_path)} if "path" in one else {}) for one in meta]
    store.add(block.ids, block.vectors, meta)
    store.close()
    ran = cli("retrieve", "search", "i", "a cat", "--format", "jsonl", "-k", "3")
    assert {hit["path"] for hit in json.loads(ran.stdout)["hits"]} == {"g/x.txt", "g/y.txt", None}
    assert "made by an older attn" in ran.stderr
    away = cli("retrieve", "search", "../i", "a cat", "--format", "jsonl", "-k", "3", cwd=tmp_path / "g")
    assert {hit["path"] for hit in json.loads(away.stdout)["hits"]} == {None}, "no path rather than a wrong one"
    assert "cannot be told from here" in away.stderr
    (tmp_path / "g" / "y.txt").unlink()
    ran = index("g")
    assert ids(tmp_path / "i") == ["a", "x.txt"]
    assert "1 entry of an older attn" in ran.stderr


# paths


def paths(cli, index, cwd, *words):
    ran = cli("retrieve", *(words or ("search", index, "a cat", "-k", "9")), "--format", "paths0", cwd=cwd)
    return sorted(one for one in ran.stdout.split("\0") if one), ran.stderr


def test_paths_lead_to_the_files_from_anywhere(index, cli, tmp_path):
    texts(tmp_path / "A" / "notes", x="a cat", y="a cat")
    texts(tmp_path / "B" / "notes", y="another")
    index("notes", into="../A.idx", cwd=tmp_path / "A")
    (extra,), _ = paths(cli, "", tmp_path / "B", "dedup", "../A.idx")
    assert extra == str(tmp_path / "A" / "notes" / "y.txt")
    assert paths(cli, "../A.idx", tmp_path / "A")[0] == ["notes/x.txt", "notes/y.txt"]
    found = cli("retrieve", "similar", "../../A.idx", "x.txt", "--format", "paths0", cwd=tmp_path / "A" / "notes")
    assert found.stdout == "y.txt\0"
    by_path = cli("retrieve", "similar", "A.idx", "A/notes/x.txt", "--format", "paths0", cwd=tmp_path)
    assert by_path.stdout == "A/notes/y.txt\0"
    cli("retrieve", "export", "A.idx", "-o", "copy", "--to", "flat")
    assert paths(cli, "../copy", tmp_path / "B")[0] == [str(tmp_path / "A" / "notes" / f"{n}.txt") for n in "xy"]


def test_index_and_gallery_that_moved_together(index, cli, tmp_path):
    texts(tmp_path / "A" / "notes", x="a cat", y="a dog")
    index("notes", into="idx", cwd=tmp_path / "A")
    shutil.copytree(tmp_path / "A", tmp_path / "C")  # with its times
    assert paths(cli, "C/idx", tmp_path)[0] == ["C/notes/x.txt", "C/notes/y.txt"]
    (tmp_path / "A").rename(tmp_path / "D")
    assert paths(cli, "D/idx", tmp_path)[0] == ["D/notes/x.txt", "D/notes/y.txt"]
    shutil.move(tmp_path / "D" / "idx", tmp_path / "elsewhere")  # the index alone: nothing tells where the files are
    found, told = paths(cli, "elsewhere", tmp_path)
    assert found == ["A/notes/x.txt", "A/notes/y.txt"]
    assert "2 files are not there any more" in told
    again = index("notes", into="../elsewhere", cwd=tmp_path / "D")
    assert counts(again)["relabelled"] == 2
    assert paths(cli, "elsewhere", tmp_path) == (["D/notes/x.txt", "D/notes/y.txt"], "")
    (tmp_path / "D" / "notes" / "x.txt").write_text("something else altogether")
    assert "1 file has another time or size than when it was indexed" in paths(cli, "elsewhere", tmp_path)[1]


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
@pytest.mark.parametrize("store", ["flat", "lance"])
def test_names_that_are_no_utf8_come_back_as_the_same_bytes(index, cli, tmp_path, model, store):
    if store == "lance":
        pytest.importorskip("lancedb")
    from click.testing import Result
    from typer.testing import CliRunner

    from attn.cli.main import app

    names = [b"caf\xe9.txt", b"a\\xe9.txt", b"-rf.txt", b"n\nl.txt"]
    folder = os.fsencode(tmp_path / "g")
    os.mkdir(folder)
    for name in names:
        with open(os.path.join(folder, name), "w") as file:
            file.write("a cat")
    index("g", "--store", store)
    assert r"caf\xe9.txt" in ids(tmp_path / "i")
    done: Result = CliRunner().invoke(app, ["retrieve", "search", "../i", "a cat", "--format", "paths0"])
    os.chdir(folder)
    done = CliRunner().invoke(app, ["retrieve", "search", "../i", "a cat", "--format", "paths0"])
    found = {os.path.basename(one) for one in done.stdout_bytes.split(b"\0") if one}
    assert found == set(names)
    assert b"./-rf.txt\0" in done.stdout_bytes
    assert counts(index("g"))["unchanged"] == 4


def test_a_list_of_files_to_remove_has_only_what_is_there_as_it_was(index, cli, tmp_path):
    texts(tmp_path / "g", a="a cat", b="a cat", c="a cat", d="a cat")
    index("g")
    assert paths(cli, "", tmp_path, "dedup", "i")[0] == ["g/b.txt", "g/c.txt", "g/d.txt"]
    (tmp_path / "g" / "a.txt").unlink()  # the one that would be kept
    (tmp_path / "g" / "c.txt").write_text("a dog")
    os.utime(tmp_path / "g" / "c.txt", ns=(1, 1))
    found, told = paths(cli, "", tmp_path, "dedup", "i")
    assert found == ["g/d.txt"]
    assert told.count("; left out") == 2
    assert "3 of 4 entries" in cli("retrieve", "dedup", "i").stdout, "vectors need no files"


def test_an_index_that_moved_with_its_gallery_goes_on(index, tmp_path):
    texts(tmp_path / "A" / "notes", x="a cat", y="a dog")
    index("notes", into="idx", cwd=tmp_path / "A")
    (tmp_path / "A").rename(tmp_path / "B")
    (tmp_path / "B" / "notes" / "y.txt").unlink()
    ran = index("notes", into="idx", cwd=tmp_path / "B")
    assert [counts(ran)[name] for name in ("relabelled", "removed", "kept", "added")] == [1, 1, 0, 0]


def test_dots_after_a_link_mean_what_the_system_takes_them_for(index, cli, tmp_path):
    texts(tmp_path / "real" / "notes", x="a cat")
    texts(tmp_path / "notes", x="a dog")
    (tmp_path / "real" / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    index("link/../notes")
    assert paths(cli, "i", tmp_path)[0] == ["real/notes/x.txt"]


def test_a_copy_without_its_times_is_found_with_a_word(index, cli, tmp_path):
    texts(tmp_path / "A" / "notes", x="a cat")
    index("notes", into="idx", cwd=tmp_path / "A")
    (tmp_path / "A").rename(tmp_path / "B")
    os.utime(tmp_path / "B" / "notes" / "x.txt", ns=(1, 1))
    found, told = paths(cli, "B/idx", tmp_path)
    assert found == ["B/notes/x.txt"]
    assert "another time or size" in told


# metadata


@pytest.mark.parametrize("store", ["flat", "lance"])
def test_nested_metadata_and_lists_are_kept(index, cli, tmp_path, store):
    if store == "lance":
        pytest.importorskip("lancedb")
    row = {"id": "a", "text": "a cat", "meta": {"lang": "en", "of": {"n": 3}}, "tags": ["x", "y"], "gallery": "mine"}
    (tmp_path / "g.jsonl").write_text(json.dumps(row) + "\n")
    ran = index("g.jsonl", "--store", store)
    assert "got an underscore: gallery_" in ran.stderr
    for where in ("meta.lang = 'en'", "meta.of.n > 2", "tags LIKE '%\"x\"%'", "gallery_ = 'mine'"):
        assert cli("retrieve", "search", "i", "a cat", "--where", where).code == 0, where


def test_half_characters_and_nul_do_not_stop_a_gallery(index, tmp_path):
    (tmp_path / "g.jsonl").write_text(
        '{"id": "a\\u0000", "text": "a cat", "w": "x\\ud800"}\n{"id": "a", "text": "b"}\n'
    )
    assert counts(index("g.jsonl"))["entries"] == 2
    assert ids(tmp_path / "i") == ["a", "a\0"]
    assert counts(index("g.jsonl"))["unchanged"] == 2


# passages


def test_long_texts_are_found_by_their_passages(index, cli, tmp_path):
    words = " ".join(["red dog runs"] * 12 + ["old river town"] * 12)
    texts(tmp_path / "g", long=words, short="red dog runs", copy=words)
    assert "--chunk auto" in index("g").stderr
    ran = index("g", "--chunk", "auto")
    assert "longer than" not in ran.stderr
    assert (counts(ran)["entries"], counts(ran)["changed"]) == (3, 3)
    assert counts(ran)["passages"] > 6
    assert "long.txt#2" in ids(tmp_path / "i")
    again = index("g")
    assert (counts(again)["unchanged"], counts(again)["entries"]) == (3, 3), "the index remembers its passages"
    found = cli("retrieve", "search", "i", "old river town old river town", "--format", "jsonl", "-k", "3")
    hits = json.loads(found.stdout)["hits"]
    assert sorted(hit["id"] for hit in hits) == ["copy.txt", "long.txt", "short.txt"]
    assert hits[0]["meta"]["best_passage"].startswith(hits[0]["id"] + "#")
    assert paths(cli, "", tmp_path, "dedup", "i")[0] == ["g/long.txt"]
    like = cli("retrieve", "similar", "i", "long.txt", "--format", "jsonl", "-k", "2")
    assert json.loads(like.stdout)["hits"][0]["id"] == "copy.txt"
    (tmp_path / "g" / "long.txt").write_text("short now")
    assert counts(index("g"))["changed"] == 1
    assert [key for key in ids(tmp_path / "i") if key.startswith("long")] == ["long.txt"]
    (tmp_path / "g" / "copy.txt").unlink()
    assert counts(index("g"))["removed"] == 1
    assert ids(tmp_path / "i") == ["long.txt", "short.txt"]
    lines = [{"id": "a", "text": words}, {"id": "a#1", "text": "x"}]
    (tmp_path / "l.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert "'a#1' is an id" in index("l.jsonl", "--chunk", "auto", code=2, into="j").stderr
    assert "is not auto, off or a number" in index("g", "--chunk", "9999999", code=2).stderr
