"""What a model's image tower is given: ``generate`` encodes pictures first and calls the model without their pixels."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_ENCODERS = ("get_image_features", "get_video_features")


@contextmanager
def seen_pixels(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep what pictures and videos are encoded from, by the names that a processor gives it.

    Parameters
    ----------
    model : Module
        A vision-language model of transformers.

    Yields
    ------
    dict of str to Tensor
        ``pixel_values``, ``image_grid_thw``, … of the last pictures that were encoded; who takes them clears it.
    """
    base: Any = model.base_model
    seen: dict[str, Tensor] = {}
    own = [name for name in _ENCODERS if hasattr(base, name)]
    for name in own:
        setattr(base, name, _watched(getattr(base, name), seen))
    try:
        yield seen
    finally:
        for name in own:
            delattr(base, name)  # the class's own is there again


def _watched(encode: Callable[..., Any], seen: dict[str, Tensor]) -> Callable[..., Any]:
    @functools.wraps(encode)  # generate looks at the signature
    def watched(*args: Any, **kwargs: Any) -> Any:
        call = inspect.signature(encode).bind(*args, **kwargs).arguments
        call |= call.pop("kwargs", {})
        seen.update({name: value for name, value in call.items() if isinstance(value, Tensor)})
        return encode(*args, **kwargs)

    return watched
