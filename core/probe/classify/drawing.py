"""`attn probe classify PICTURES --head FILE`: where the queries of a saved head look on other pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...batch.run import BatchOutcome
from ...errors import InputError
from ...io.walk import Passed, expand_inputs
from ...models.load import load_model
from ...models.pictures import PICTURE_SUFFIXES, read_picture
from ...options import OptionError
from ...progress import Watcher
from ...report.model import Item, Report, command_line_of
from ..frame import request_of
from ..panel import FigureData, Origin, write_figure
from .features import last_norm, tokens_of
from .options import ClassifyOptions
from .query_maps import group_maps, grouped
from .saved_head import read_head
from .written import shown_to_model

MOST = 64
"""Pictures in one figure."""


def draw_head(options: ClassifyOptions, watcher: Watcher, arguments: Mapping[str, Any], start: float) -> Report:
    """One figure of all pictures, with the class that the head names.

    Raises
    ------
    OptionError
        If the head is of another encoder, or its pooling has no maps.
    """
    assert options.head is not None
    saved = read_head(options.head)
    loaded = load_model(options.model, "vision", device=options.compute.device, allow_download=options.allow_download)
    if saved.fingerprint != loaded.fingerprint:
        raise OptionError(f"{{head}}: {options.head} was trained on another encoder. Give its {{model}}.")
    if saved.tokens not in ("patches", "all"):
        raise OptionError(f"{{head}}: {saved.probe} reads one vector a picture and looks nowhere. Give that of ep.")
    images = loaded.processor.images
    assert images is not None
    norm = last_norm(loaded.model) if saved.final_norm else None
    passed = Passed()
    sources = expand_inputs((options.data,), suffixes=PICTURE_SUFFIXES, output=None, passed=passed)
    items, seen, maps, captions = [], [], [], []
    for number, source in enumerate(sources[:MOST]):
        try:
            if source.error is not None:
                raise source.error
            picture = read_picture(source.path)
        except InputError as error:
            items.append(Item(source.name, None, "failed", 0.0, error=error.reason))
            continue
        began = time.perf_counter()
        tokens, cls, grid = tokens_of(loaded.model, [images.prepared(picture.pixels)], (saved.layer,), norm)
        x = tokens[saved.layer].float()
        if saved.tokens == "all":
            x = torch.cat([cls[saved.layer].float()[:, None], x], 1)
        with torch.inference_mode():
            try:
                found, chances = saved.head.pooling.maps(x), saved.head(x).softmax(1)[0]
            except RuntimeError:
                raise OptionError(
                    f"{{head}}: {options.head} is for other tokens than {list(x.shape[1:])} a picture."
                ) from None
        if found is None:
            raise OptionError(f"{{head}}: {saved.probe} has no maps. Give the head of another probe.")
        best = int(chances.argmax())
        seen.append(shown_to_model(images, picture.pixels))
        maps.append(found[0, :, int(saved.tokens == "all") :].double().numpy())
        captions.append(f"{Path(source.name).name}: {saved.classes[best]} ({float(chances[best]):.0%})")
        items.append(
            Item(source.name, None, "ok", time.perf_counter() - began, metrics={"confidence": float(chances[best])},
                 details={"class": saved.classes[best]}, warnings=picture.warnings)
        )  # fmt: skip
        watcher.step("maps", number + 1, min(len(sources), MOST))
    files: dict[str, str] = {}
    if maps:
        owner = grouped(np.stack(maps))
        of_groups = group_maps(np.stack(maps), owner).reshape(len(maps), -1, *grid)
        folder = options.output or Path(f"{options.head.stem}.queries")
        origin = Origin(
            command_line_of(arguments), options.model, loaded.fingerprint, seed=options.compute.seed,
            request=request_of(loaded.fingerprint, {"head": str(options.head)}),
        )  # fmt: skip
        data = FigureData(
            "classify-queries", f"Where the queries of {saved.probe} look (layer {saved.layer})",
            {"seen": np.stack(seen), "maps": of_groups.astype(np.float32), "owner": owner}, {"captions": captions},
            origin,
        )  # fmt: skip
        files = write_figure(folder / f"{options.head.stem}.queries.png", data)
    notices = [f"{len(sources)} pictures: the first {MOST} are drawn"] if len(sources) > MOST else []
    return BatchOutcome(tuple(items)).report(
        "probe", arguments, str(next(loaded.model.parameters()).device), start, passed=passed, files=files,
        notices=notices,
    )  # fmt: skip
