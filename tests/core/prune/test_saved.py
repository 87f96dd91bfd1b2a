"""A kept folder does the same again, names what differs, and is refused where it is damaged."""

import json

import pytest
from small_vlms import coloured, loaded_vlm

from attn.core.errors import InputError, UsageError
from attn.core.prune.api import prune
from attn.core.prune.saved import SavedPruning, read_saved, shape_in_words, write_saved
from attn.core.prune.vlm.ask import answer, prepare


def kept_by(loaded, **call):
    prepared = prepare(loaded, [coloured(40, 60)], "what is it")
    with prune(loaded, pictures=(prepared.pictures,), **call) as trace:
        answer(loaded, prepared, max_new_tokens=1)
    return trace.last.kept().tolist()


def test_a_folder_does_the_same_again(tmp_path):
    loaded = loaded_vlm("llava")
    settings = {"seed": 3, "layer": 1}
    saved = SavedPruning("random", 7, "keep", settings, "m", shape_in_words(loaded.model), loaded.fingerprint)
    write_saved(tmp_path / "kept", saved)
    assert read_saved(tmp_path / "kept") == saved
    assert kept_by(loaded, saved=tmp_path / "kept") == kept_by(loaded, method="random", keep=7, seed=3, layer=1)
    with pytest.raises(UsageError, match="the folder names"):
        kept_by(loaded, saved=tmp_path / "kept", keep=0.5)
    write_saved(tmp_path / "kept", SavedPruning("random", 7, "keep", {}, "m", saved.shape, "another"))
    with pytest.warns(UserWarning, match="other weights"):
        kept_by(loaded, saved=tmp_path / "kept")


def test_files_that_settings_name_are_kept_too(tmp_path):
    (tmp_path / "trend.json").write_text("{}")
    settings = {"calibration": tmp_path / "trend.json", "positions": (1, 2)}
    write_saved(tmp_path / "kept", SavedPruning("fastv+debias", 0.25, "keep", settings, "m", "s", "f"))
    (tmp_path / "trend.json").unlink()
    (tmp_path / "kept").rename(tmp_path / "moved")
    read = read_saved(tmp_path / "moved").settings
    assert read["calibration"].read_text() == "{}"
    assert read["positions"] == (1, 2)


@pytest.mark.parametrize(
    "change",
    [{"kind": "other"}, {"files": {"calibration": "../trend.json"}}, {"positions": "sideways"}, {"more": 1}],
    ids=str,
)
def test_a_damaged_folder_is_one_line(tmp_path, change):
    path = write_saved(tmp_path, SavedPruning("fastv", 0.25, "keep", {}, "m", "s", "f"))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="is no saved pruning"):
        read_saved(tmp_path)
