"""One door to all encoders: a name, a folder, a file or a Hugging Face id becomes an encoder ready to use.

Temperatures are checked when a model is loaded (methods/tempscale.md, section 3.7).
"""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...device import pick_device, pick_dtype, set_threads
from ...errors import AttnError, UsageError, did_you_mean
from ...io.weights import read_description
from ...models import hf
from ...models.files import check_regular
from ...network import network
from ...text import reason_of
from ..tempscale import check, self_check
from .base import Encoder
from .dual import MODELS as DUAL
from .dual import load_dual
from .openclip import CONFIG as OPEN_CLIP
from .openclip import load_openclip
from .sentence import load_plain, load_sentence
from .vit_minilm import FORMAT as VIT_MINILM
from .vit_minilm import load_vit_minilm, minilm_dir

NAMES = ("minilm", "vit-minilm")
FILES: Mapping[str, str] = {
    VIT_MINILM: "attn.core.retrieve.encoders.vit_minilm:load_vit_minilm",
    "attn-ga-dms": "attn.core.retrieve.gadms.encoder:load_gadms",
    "attn-priorclip": "attn.core.retrieve.priorclip.encoder:load_priorclip",
}
"""``format`` in the metadata of a .safetensors file of attn -> ``module:function``.

The function is called with (name, path, device=, dtype=, temperature=, max_tokens=) and returns an ``Encoder``.
"""
MOST_LOOKED_AT = 2000
"""Names among which a mistyped one is looked for."""
_CONFIGS = ("modules.json", "config.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.bin"]
_HUB_SKIP = ["onnx/*", "openvino/*", "coreml/*", "tf_*", "flax_*", "rust_*", "*training_args.bin"]


@dataclass(frozen=True, slots=True)
class _Request:
    """What every loader is told."""

    device: torch.device
    dtype: torch.dtype
    temperature: float
    max_tokens: int | None

    def items(self) -> dict[str, Any]:
        """As keyword arguments."""
        return {name: getattr(self, name) for name in self.__slots__}


def load(
    name: str, *, device: torch.device | str = "cpu", dtype: str = "float32", temperature: float = 1.0,
    max_tokens: int | None = None, pooling: str | None = None, threads: int | None = None,
    allow_download: bool = False,
) -> Encoder:  # fmt: skip
    """An encoder.

    Parameters
    ----------
    name : str
        ``minilm``, ``vit-minilm``, a folder (sentence-transformers, transformers, CLIP, SigLIP, open_clip), a
        .safetensors file that attn wrote, or a Hugging Face id that is on this machine.
    device : torch.device or str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    dtype : str
        Of the weights while they run; vectors are float32.
    temperature : float
        Attention logits are divided by it, in all layers and for both sides. The model is then tried, see Raises.
    max_tokens : int, optional
        Cut texts here instead of where the model says.
    pooling : str, optional
        For text encoders, instead of what the folder says: see ``text.POOLINGS``.
    threads : int, optional
        Of the CPU; by default torch keeps what it has.
    allow_download : bool
        Ask the hub for an id that is not on this machine. Without it nothing leaves the machine.

    Raises
    ------
    UsageError
        If there is no such model, it is not complete, something it needs is not installed, or it does not take the
        temperature.
    """
    check(temperature)
    if threads is not None:
        set_threads(threads)
    place = pick_device(device) if isinstance(device, str) else device
    request = _Request(place, pick_dtype(dtype), temperature, max_tokens)
    try:
        encoder = _load(name, request, pooling, allow_download)
    except AttnError:
        raise
    except Exception as error:  # a damaged configuration fails anywhere in transformers, each time otherwise
        raise UsageError(f"--model: {name} cannot be loaded as a model ({reason_of(error)}).") from error
    return encoder if temperature == 1 else at_temperature(encoder, temperature)


def at_temperature(encoder: Encoder, tau: float) -> Encoder:
    """The same weights at another temperature, tried first (section 3.7).

    Raises
    ------
    UsageError
        If ``tau`` is not positive, or the model has no temperature to set.
    """
    check(tau)
    if tau == encoder.fingerprint.temperature == 1.0:
        return encoder
    if not hasattr(encoder, "at"):
        raise UsageError(f"--temperature: {encoder.fingerprint.model} has no temperature to set; leave it at 1.")
    _check(encoder)
    scaled: Encoder = encoder.at(tau)
    return scaled


def _load(name: str, request: _Request, pooling: str | None, allow_download: bool) -> Encoder:
    path = _path(name)
    if name == "minilm":
        return load_sentence(name, minilm_dir(), pooling=pooling, **request.items())
    if name == "vit-minilm":
        return load_vit_minilm(name, **request.items())
    if path.suffix == ".safetensors":
        return _load_file(name, path, request)
    if path.is_dir():
        return _load_folder(name, path, request, pooling)
    if _HUB_ID.fullmatch(name) and not path.parent.is_dir():  # beside a folder that is there it is a path, mistyped
        return _load_folder(name, _from_hub(name, allow_download), request, pooling)
    raise UsageError(f"--model: no model named {name!r}, and no folder of that name. {_possible(name)}")


def _load_folder(name: str, folder: Path, request: _Request, pooling: str | None) -> Encoder:
    """By the files that are in it."""
    check_regular(folder)
    if (folder / OPEN_CLIP).is_file():
        return load_openclip(name, folder, **request.items())
    if (folder / "modules.json").is_file():
        return load_sentence(name, folder, pooling=pooling, **request.items())
    if not _is_model(folder):
        raise UsageError(
            f"--model: {folder} is no folder of a model: it holds none of modules.json, config.json, {OPEN_CLIP}."
        )
    if hf.load_config(folder).model_type in DUAL:
        return load_dual(name, folder, **request.items())
    return load_plain(name, folder, pooling=pooling, **request.items())


def _load_file(name: str, path: Path, request: _Request) -> Encoder:
    """By the format that its metadata name."""
    described = read_description(path)
    home = FILES.get(described.get("format", ""))
    if home is None:
        raise UsageError(f"--model: {path} is no encoder that attn wrote. Known formats: {', '.join(sorted(FILES))}.")
    module, function = home.split(":")
    encoder: Encoder = getattr(importlib.import_module(module), function)(name, path, **request.items())
    return encoder


def _path(name: str) -> Path:
    """What the user typed as a path. Raises ``UsageError`` where it can be none."""
    try:
        path = Path(name).expanduser()
        path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL byte, a user that does not exist
        raise UsageError(f"--model: {name[:80]!r} cannot be a path ({error}).") from None
    return path


def _from_hub(name: str, allow_download: bool) -> Path:
    """Folder of a Hugging Face id: the copy on this machine, or else a download, if that is allowed."""
    hf.transformers()
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {"allow_patterns": _HUB_FILES, "ignore_patterns": _HUB_SKIP}
    try:
        with network():
            return Path(snapshot_download(name, local_files_only=True, **wanted))
    except Exception:  # not in the cache, whatever the package calls that
        pass
    if not allow_download:
        raise UsageError(
            f"--model: {name} is no folder, and not on this machine. {_possible(name)} "
            "--allow-download asks the Hugging Face hub for an id."
        )
    try:
        with network(allowed=True):
            return Path(snapshot_download(name, **wanted))
    except Exception as error:  # no network, no such id, no permission, no space
        raise UsageError(
            f"--model: {name} is no folder and not on this machine, and it could not be downloaded "
            f"({reason_of(error)}). {_possible(name)}"
        ) from None


def _is_model(path: Path) -> bool:
    return path.suffix == ".safetensors" or any((path / file).is_file() for file in (*_CONFIGS, OPEN_CLIP))


def _possible(name: str) -> str:
    """What could have been meant, and what can be given."""
    parent = Path(name).expanduser().parent
    places = parent.glob("*") if parent.is_dir() else parent.parent.glob("*/*")
    folders = [str(one) for one in itertools.islice(places, MOST_LOOKED_AT) if _is_model(one)]
    near = did_you_mean(name, [*NAMES, *folders])
    what = (
        f"Give {' or '.join(NAMES)}, a folder of a model, a .safetensors file of attn, or a Hugging Face id (ORG/NAME)."
    )
    return f"{near} {what}".strip()


def _check(encoder: Any) -> None:
    """Section 3.7, on the tower of the texts."""
    plain = encoder.at(1.0)
    texts = getattr(plain, "text", plain)
    self_check(texts.model, lambda some: texts.encode_texts(some).vectors)
