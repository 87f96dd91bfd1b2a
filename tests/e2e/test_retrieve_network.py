"""Nothing leaves the machine unless `--allow-download` says so; with every socket forbidden, all local work is done."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("transformers", reason="the text encoders need transformers")

from encoder_folders import sentence_folder


@pytest.fixture
def asked(monkeypatch):
    """Addresses that anything asked for; none of them is reached."""
    found: list[object] = []

    def refuse(*args, **named):
        found.append(args)
        raise OSError("no network in this test")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    return found


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models").mkdir()
    sentence_folder(tmp_path / "models" / "tiny")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a cat")


def test_local_work_needs_no_network(cli, models, asked, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"id": ["1"], "text": ["a dog"]}).save_to_disk(str(tmp_path / "saved"))
    for verb in (["index", "notes", "saved", "-o", "i", "--model", "models/tiny"], ["search", "i", "cat"]):
        ran = cli("retrieve", *verb)
        assert ran.code == 0, ran.stderr
    assert asked == []


@pytest.mark.parametrize("allowed", [(), ("--allow-download",)])
@pytest.mark.parametrize("typed", ["models/tyni", "./models/tyni", "models/deep/tyni", "~nobody-at-all/x"])
def test_a_mistyped_path_is_never_asked_for(cli, models, asked, typed, allowed):
    ran = cli("retrieve", "index", "notes", "-o", "i", "--model", typed, *allowed)
    assert ran.code == 2
    assert asked == []
    assert len(ran.stderr.splitlines()) == 1
    if typed.endswith("tyni") and "deep" not in typed:
        assert "Did you mean" in ran.stderr
        assert "models/tiny" in ran.stderr


def test_an_id_is_asked_for_only_where_that_is_allowed(cli, models, asked, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    ran = cli("retrieve", "index", "notes", "-o", "i", "--model", "nobody/nothing")
    assert (ran.code, asked) == (2, [])
    assert "--allow-download asks the Hugging Face hub" in ran.stderr
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ran = cli("retrieve", "index", "notes", "-o", "i", "--model", "nobody/nothing", "--allow-download")
    assert (ran.code, asked) == (2, []), "HF_HUB_OFFLINE is respected"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    ran = cli("retrieve", "index", "notes", "-o", "i", "--model", "nobody/nothing", "--allow-download")
    assert ran.code == 2
    assert asked, "now it was asked for"
    assert "could not be downloaded" in ran.stderr
