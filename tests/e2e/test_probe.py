"""`attn probe` as a user runs it."""

import json

from small_models import photo, vision_folder


def test_command(cli, tmp_path):
    model = vision_folder(tmp_path / "model")
    photo(tmp_path / "a b.png")
    ran = cli("probe", "vit", "a b.png", "example:ct", "--model", str(model), "--json", "--report", "r.html")
    assert ran.code == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert [item["status"] for item in report["items"]] == ["ok", "ok"]
    assert report["command"] == "probe"
    assert "HU" in report["items"][1]["warnings"][0]
    assert {"a b.distance.png", "CT_small.distance.png", "CT_small.distance.npz"} <= {
        p.name for p in tmp_path.iterdir()
    }
    assert (tmp_path / "r.html").read_text().count("data:image/png") == 2
    assert cli("probe", "vit", "missing.png", "--model", str(model)).code == 1
    assert cli("probe", "vit", "--model", str(model)).code == 2
    assert cli("probe", "vti").code == 2
    named = cli("probe", "vit", "a b.png", "-o", "one.png", "--model", str(model))
    assert (named.code, (tmp_path / "one.npz").exists()) == (0, True)
    listed = cli("probe", "vit", "-", "-o", "out", "--model", str(model), stdin="a b.png\n")
    assert (listed.code, (tmp_path / "out/a b.distance.png").exists()) == (0, True)
