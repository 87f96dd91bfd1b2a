"""`attn probe filters` and `attn probe initialisers` as a user runs them."""

import torch


def test_filters(cli, tmp_path):
    torch.save({"conv.weight": torch.randn(4, 3, 3, 3)}, tmp_path / "a b.pt")
    torch.save({"conv.weight": torch.randn(4, 3, 3, 3)}, tmp_path / "c.pt")
    (tmp_path / "bad.pt").write_bytes(b"no model")
    ran = cli("probe", "filters", "a b.pt", "shapes-cnn", "bad.pt", "-o", "out", "--json", "--report", "r.html")
    assert ran.code == 1
    assert {item["input"]: item["status"] for item in ran.report["items"]} == {
        "shapes-cnn": "ok", "a b.pt": "ok", "bad.pt": "failed",
    }  # fmt: skip
    trust = ran.report["items"][0]["details"]["trust"]
    assert [line["verdict"] for line in trust] == ["passed"] * 4
    assert {"a b.filters.png", "shapes-cnn.filters.npz"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert (tmp_path / "r.html").read_text().count("data:image/png") == 2
    listed = cli("probe", "filters", "-", "--compare", "c.pt", "--layers", "conv", "-o", "moved", stdin="a b.pt\n")
    assert listed.code == 0, listed.stderr
    assert cli("probe", "filters", "a b.pt", "--compare", "gone.pt", "-o", "moved").code == 2
    assert cli("probe", "filters").code == 2


def test_initialisers(cli, tmp_path):
    few = ("--steps", "3", "--seeds", "1", "--batch", "4", "--layers", "2", "--width", "4", "-o", "out")
    ran = cli("probe", "initialisers", "--init", "he,lecun", *few, "--json")
    assert ran.code == 0, ran.stderr
    assert {"initialisers.png", "init-he.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert cli("probe", "initialisers", "--init", "hee", *few).code == 2
