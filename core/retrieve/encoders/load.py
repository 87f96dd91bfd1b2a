"""One door to all encoders: a name, a folder, a file or a Hugging Face id becomes an encoder ready to use.

Temperatures are checked when a model is loaded (methods/tempscale.md, section 3.7).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...device import pick_device, pick_dtype, set_threads
from ...errors import AttnError, UsageError, did_you_mean
from ...models.files import check_regular
from ...models.hooks import check_temperature
from ...models.load import find_folder, is_hub_id, path_of
from ...options import OptionError
from ...text import reason_of
from .. import encoder_rows
from ..tempscale import self_check
from .base import Encoder
from .kind import EncoderKind, Source

MOST_LOOKED_AT = 2000
"""Names among which a mistyped one is looked for."""


def load(
    name: str, *, device: torch.device | str = "cpu", dtype: str = "float32", temperature: float = 1.0,
    max_tokens: int | None = None, pooling: str | None = None, threads: int | None = None,
    allow_download: bool = False,
) -> Encoder:  # fmt: skip
    """An encoder.

    Parameters
    ----------
    name : str
        The name of an encoder, a folder of one, a .safetensors file that attn wrote, or a Hugging Face id that is on
        this machine: whatever a row of ``attn.core.retrieve.METHODS`` recognises.
    device : torch.device or str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    dtype : str
        Of the weights while they run; vectors are float32.
    temperature : float
        Attention logits are divided by it, in all layers and for both sides. The model is then tried, see Raises.
    max_tokens : int, optional
        Cut texts here instead of where the model says.
    pooling : str, optional
        For text encoders, instead of what the folder says: see ``text.POOLINGS``. Others have none to choose.
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
    check_temperature(temperature)
    if threads is not None:
        set_threads(threads)
    place = pick_device(device) if isinstance(device, str) else device
    request = {"device": place, "dtype": pick_dtype(dtype), "temperature": temperature, "max_tokens": max_tokens}
    try:
        encoder = _load(name, request, pooling, allow_download)
    except AttnError:
        raise
    except Exception as error:  # a damaged configuration fails anywhere in transformers, each time otherwise
        raise OptionError(f"{{model}}: {name} cannot be loaded as a model ({reason_of(error)}).") from error
    return encoder if temperature == 1 else at_temperature(encoder, temperature)


def at_temperature(encoder: Encoder, tau: float) -> Encoder:
    """The same weights at another temperature, tried first (section 3.7).

    Raises
    ------
    UsageError
        If ``tau`` is not positive, or the model has no temperature to set.
    """
    check_temperature(tau)
    if tau == encoder.fingerprint.temperature == 1.0:
        return encoder
    if not hasattr(encoder, "at"):
        raise OptionError(f"{{temperature}}: {encoder.fingerprint.model} has no temperature to set; leave it at 1.")
    _check(encoder)
    scaled: Encoder = encoder.at(tau)
    return scaled


def _load(name: str, request: dict[str, Any], pooling: str | None, allow_download: bool) -> Encoder:
    source = _source(name, path_of(name))
    kind = _recognised(source)
    if kind is None and not source.path.is_dir() and is_hub_id(name):
        source = _source(name, find_folder(name, _possible(name), allow_download=allow_download))
        kind = _recognised(source)
    if kind is None:
        raise _unknown(source)
    if pooling is not None and not kind.pools:
        raise OptionError(f"{{pooling}}: {name} has none to choose. Leave it out.")
    return kind.load(name, source.path, **request, **({"pooling": pooling} if kind.pools else {}))


def _source(name: str, path: Path) -> Source:
    """A model that was asked for. Raises ``UsageError`` where it is a folder with a pipe or a device in it."""
    if path.is_dir():
        check_regular(path)
    return Source(name, path)


def _recognised(source: Source) -> EncoderKind | None:
    """The first kind of the registry whose model it is."""
    kinds: Iterator[EncoderKind] = (row.load() for row in encoder_rows())
    return next((kind for kind in kinds if kind.recognises(source)), None)


def _unknown(source: Source) -> UsageError:
    """The error of what is of no kind."""
    name, path = source.name, source.path
    if row := next((row for row in encoder_rows() if row.name == name), None):
        return OptionError(f"{{model}}: {name} is a kind of model. Give the {' or '.join(row.given)} of one.")
    if path.suffix == ".safetensors":
        known = ", ".join(sorted(row.name for row in encoder_rows("file")))
        return OptionError(f"{{model}}: {path} is no encoder that attn wrote. It reads those of {known}.")
    if path.is_dir():
        return OptionError(f"{{model}}: {path} is no folder of a model: it holds none of {', '.join(_markers())}.")
    return OptionError(f"{{model}}: no model named {name!r}, and no folder of that name. {_possible(name)}")


def _markers() -> list[str]:
    """Files by which the folders of all kinds are known."""
    return sorted({file for row in encoder_rows("folder") for file in row.load().files})


def _possible(name: str) -> str:
    """What could have been meant, and what can be given."""
    parent, markers = Path(name).expanduser().parent, _markers()
    places = parent.glob("*") if parent.is_dir() else parent.parent.glob("*/*")
    models = [
        str(path)
        for path in itertools.islice(places, MOST_LOOKED_AT)
        if path.suffix == ".safetensors" or any((path / file).is_file() for file in markers)
    ]
    names = [row.name for row in encoder_rows("name")]
    near = did_you_mean(name, [*names, *models])
    what = (
        f"Give {' or '.join(names)}, a folder of a model, a .safetensors file of attn, or a Hugging Face id (ORG/NAME)."
    )
    return f"{near} {what}".strip()


def _check(encoder: Any) -> None:
    """Section 3.7, on the tower of the texts."""
    plain = encoder.at(1.0)
    texts = getattr(plain, "text", plain)
    self_check(texts.model, lambda some: texts.encode_texts(some).vectors)
