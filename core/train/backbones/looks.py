"""Where one place of a picture looks: the regions that BiFormer routes it to, or the halo of HaloNet's block."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...nets.bra_layers import BiLevelRoutingAttention
from ...nets.halonet import HaloAttn
from ...report.figure import picture_sheet
from ..vit.data import LabelledPictures, normalised

Box = tuple[float, float, float, float]
"""Top, left, bottom, right, as shares of the picture."""
SHOWN = 3
"""Pictures."""
SIDE = 256
QUERY, KEYS = (255, 255, 255), (255, 0, 120)


@torch.inference_mode()
def attended(network: nn.Module, images: Tensor) -> list[tuple[str, list[tuple[Box, list[Box]]]]]:
    """Of the last block of each stage that is local: its stage, and of every picture what asks, and where it looks.

    The place that asks is the region, or the block, right below the middle.

    Parameters
    ----------
    network : Module
        BiFormer or HaloNet.
    images : Tensor [B, 3, S, S]
    """
    found: dict[str, list[tuple[Box, list[Box]]]] = {}

    def routed(layer: BiLevelRoutingAttention, args: tuple[Tensor], stage: str) -> None:
        routing = layer.routing(args[0])
        count = layer.n_win
        asks = (count // 2) * count + count // 2

        def box(region: int) -> Box:
            row, col = divmod(region, count)
            return row / count, col / count, (row + 1) / count, (col + 1) / count

        chosen = routing.index[:, asks].tolist()
        found[stage] = [(box(asks), [box(region) for region in regions]) for regions in chosen]

    def haloed(layer: HaloAttn, args: tuple[Tensor], stage: str) -> None:
        side, block, halo = args[0].shape[-1], layer.block_size, layer.halo_size
        start = (-(-side // block) // 2) * block
        inner = (start / side, start / side, min(side, start + block) / side, min(side, start + block) / side)
        low, high = max(0, start - halo) / side, min(side, start + block + halo) / side
        found[stage] = [(inner, [(low, low, high, high)])] * len(args[0])

    with ExitStack() as stack:
        for number, stage in enumerate(network.get_submodule("stages").children(), 1):
            layer: Any = list(stage.children())[-1].get_submodule("attn")
            watch: Any = {BiLevelRoutingAttention: routed, HaloAttn: haloed}.get(type(layer))
            if watch is not None:
                hook = layer.register_forward_pre_hook(lambda of, args, w=watch, s=f"stage {number}": w(of, args, s))
                stack.callback(hook.remove)
        network(images)
    return list(found.items())


def draw_attended(network: nn.Module, pictures: LabelledPictures, path: Path, device: torch.device) -> None:
    """A sheet of the first test pictures, a column for each stage: white what asks, red where it looks."""
    images = pictures.images[:SHOWN]
    stages = attended(network, normalised(images, device))
    sheet = {}
    factor = max(1, SIDE // images.shape[-1])
    for number, image in enumerate(images):
        large = image.permute(1, 2, 0).numpy().repeat(factor, 0).repeat(factor, 1)
        for stage, places in stages:
            asks, looks = places[number]
            drawn = large.copy()
            for box in looks:
                _frame(drawn, box, KEYS, 0)
            _frame(drawn, asks, QUERY, 4)
            sheet[f"picture {number + 1}, {stage}"] = drawn
    picture_sheet(sheet, path, title="What asks (white), and where it looks (red)")


def _frame(picture: NDArray[np.uint8], box: Box, colour: tuple[int, int, int], inset: int) -> None:
    """A frame inside a box, in place, 3 px wide."""
    side = picture.shape[0]
    top, left, bottom, right = (round(share * side) for share in box)
    inside = picture[top + inset : bottom - inset, left + inset : right - inset]
    kept = inside[3:-3, 3:-3].copy()
    inside[:] = colour
    inside[3:-3, 3:-3] = kept
