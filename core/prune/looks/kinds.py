"""Which way a picture is looked at: the model and the method say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...models.embedded import EMBEDDED
from ...models.load import vision_task
from ...options import OptionError
from ...report.model import Item
from .. import METHODS
from ..carve.method import Carve
from ..named import check_name, split
from ..options import PruneOptions
from ..vit.named import class_of, image_methods
from ..vit.trained import trained_file
from . import images, pixels, tokens
from .ready import Ready


@dataclass(frozen=True, slots=True)
class WayOfLooking:
    """What is done before the first picture, and with each: ``look(task, step, options, request)``."""

    ready: Callable[[PruneOptions], Ready]
    look: Callable[..., Item]


def settled(options: PruneOptions) -> tuple[PruneOptions, WayOfLooking]:
    """The options with what was left open, and how to look. Raises ``UsageError``."""
    for name in (options.method, *options.compare):
        check_name(name)
    if METHODS[split(options.method)[0]].resolve() is Carve:
        return options, WayOfLooking(pixels.ready, pixels.look)
    options = replace(options, keep=options.budget)
    choice = options.choice
    trained = trained_file(choice.model) is not None
    task = "classifier" if trained else vision_task(choice.model, allow_download=choice.allow_download)
    if task == "classifier" and class_of(options.method) is not None:
        return options, WayOfLooking(images.ready, images.look)
    if task == "classifier" and (trained or choice.model in EMBEDDED or options.prompt is None):
        raise OptionError(
            f"{{method}}: {split(options.method)[0]} asks a vision-language model, which {choice.model} is not. An "
            f"image classifier or backbone takes {{method}} {', '.join(image_methods())}."
        )
    return options, WayOfLooking(tokens.ready, tokens.look)
