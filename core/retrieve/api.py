"""The library's door to embeddings: texts or photos in, unit vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.photo.arrays import photo_pixels
from ..progress import Bars, Watcher
from .encoders.base import Encoder, Side
from .encoders.kept import BLOCK_IMAGES, BLOCK_TEXTS
from .encoders.load import load
from .options.encoder import MODEL

Text = str
Picture = NDArray[Any] | PathLike[str]


def encode(
    items: Text | Picture | Sequence[Text | Picture],
    model: str = MODEL,
    *,
    side: Side = "document",
    temperature: float = 1.0,
    max_tokens: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    allow_download: bool = False,
    watcher: Watcher | None = None,
) -> NDArray[np.float32]:
    """Embed texts or photos.

    Parameters
    ----------
    items : str, ndarray, Path, or a list of them
        A str is a text. A photo is an array [H, W] or [H, W, 3] of unsigned integers, whose largest value is white, or
        of floats in [0, 1]; or the ``pathlib.Path`` of a file. A list may hold both where the model takes both.
    model : str
        What ``attn retrieve --model`` takes: the name of an encoder, a folder of one, a .safetensors file of attn, or a
        Hugging Face id that is on this machine. Two models are kept in memory for the next calls.
    side : {"document", "query"}
        Some models put different prompts in front of the two.
    temperature : float
        Attention logits are divided by it (TempScale); below 1 is sharper.
    max_tokens : int, optional
        Cut longer texts here. Default: the model's limit.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
    dtype : str
        Of the weights while they run.
    allow_download : bool
        Ask the Hugging Face hub for an id that is not on this machine.
    watcher : Watcher, optional
        Told about progress. Default: a bar on stderr, where that is a terminal.

    Returns
    -------
    ndarray, float32
        [n, dim] for a list, [dim] for one text or photo; rows have length 1, so ``a @ b.T`` are cosines.

    Raises
    ------
    ValueError
        If an array is no photo. ``UsageError``, which is a ``ValueError``, if there is no such model, it needs a
        package that is not installed, or it does not encode what was given.
    InputError
        If a file cannot be read.

    Examples
    --------
    >>> import attn
    >>> a, b, c = attn.encode(["a cat", "a kitten", "tax law"])  # doctest: +SKIP
    >>> a @ b > a @ c  # doctest: +SKIP
    True
    """
    several: list[Any] = [items] if isinstance(items, (str, np.ndarray, PathLike)) else list(items)
    encoder = _loaded(model, device, dtype, temperature, max_tokens, allow_download)
    vectors = np.empty((len(several), encoder.fingerprint.dim), np.float32)
    texts = [place for place, item in enumerate(several) if isinstance(item, str)]
    photos = [place for place, item in enumerate(several) if not isinstance(item, str)]
    bars, done = watcher or Bars(), 0
    for places, size in ((texts, BLOCK_TEXTS), (photos, BLOCK_IMAGES)):
        for at in range(0, len(places), size):
            block = places[at : at + size]
            if places is texts:
                encoded = encoder.encode_texts([several[place] for place in block], side=side)
            else:
                encoded = encoder.encode_images([photo_pixels(several[place]) for place in block])
            vectors[block] = encoded.vectors
            done += len(block)
            bars.step("encode", done, len(several))
    return vectors[0] if isinstance(items, (str, np.ndarray, PathLike)) else vectors


@lru_cache(maxsize=2)
def _loaded(
    model: str, device: str, dtype: str, temperature: float, max_tokens: int | None, allow_download: bool
) -> Encoder:
    return load(
        model, device=device, dtype=dtype, temperature=temperature, max_tokens=max_tokens, allow_download=allow_download
    )
