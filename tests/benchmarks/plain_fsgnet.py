"""FSG-Net as a plain implementation runs it: what the fast form of ``core/segment/fast.py`` is measured against.

Written from methods/fsg-net.md, sections 3.2 and 3.3: tensors in NCHW, batch norms of their own, concatenations at full
resolution, heads that resize all their channels, and the guided filter in float64 by cumulative sums. State dicts of
``FSGNet`` load as they are. Only the full network is here: no ablation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attn.core.segment.fsgnet.guided import EPS, RADIUS, resize
from attn.core.segment.fsgnet.layers import Gate, MConv
from attn.core.segment.fsgnet.network import FSGNet, FullScaleTrunk, GuidedDecoder, Outputs, Scales


def box(x: Tensor, radius: int) -> Tensor:
    """Step 7: sum over the window cut at the border, from cumulative sums along both axes."""
    for axis in (2, 3):
        total, length = x.cumsum(axis), x.shape[axis]
        head = total.narrow(axis, radius, radius + 1)
        middle = total.narrow(axis, 2 * radius + 1, length - 2 * radius - 1)
        middle = middle - total.narrow(axis, 0, length - 2 * radius - 1)
        tail = total.narrow(axis, length - 1, 1) - total.narrow(axis, length - 2 * radius - 1, radius)
        x = torch.cat([head, middle, tail], axis)
    return x


def guided_filter(low: Tensor, target: Tensor, high: Tensor, attention: Tensor) -> Tensor:
    """Steps 7-11 as they are printed, in float64. ``attention`` is normalised over the whole batch (step 8)."""
    low, target, high, attention = low.double(), target.double(), high.double(), attention.double()
    n = box(low.new_ones(1, 1, *low.shape[2:]), RADIUS)
    a = attention.abs() + 1e-12
    t = a / a.sum()
    m_a = box(a, RADIUS) / n
    m_aax = box(a * a * low * target, RADIUS) / n
    m_tax = box(t * a * low, RADIUS) / n
    m_ay = box(a * target, RADIUS) / n
    m_aaxx = box(a * a * low * low, RADIUS) / n
    m_ax = box(a * low, RADIUS) / n
    slope = (m_aax - n * m_tax * m_ay) / ((m_aaxx - n * m_tax * m_ax).abs() + EPS)
    offset = (m_ay - slope * m_ax) / m_a
    size = (high.shape[2], high.shape[3])
    slope, offset = resize(box(slope, RADIUS) / n, size), resize(box(offset, RADIUS) / n, size)
    return (slope * high + offset).float()


class PlainGuidedDecoder(GuidedDecoder):
    """Steps 19-25, each as its row of the table in section 3.3."""

    def forward(self, scales: Scales, maps: dict[str, Tensor] | None = None) -> Outputs:
        e1, e2, e3, x4 = scales
        g3 = _merged(self.conv_cat_3, e3, x4)
        y3 = self.up_residual_conv3(_filtered(x4, g3, self.attention_block3))
        g2 = _merged(self.conv_cat_2, e2, g3)
        y2 = self.up_residual_conv2(_filtered(y3, g2, self.attention_block2))
        g1 = _merged(self.conv_cat_1, e1, g2)
        y1 = self.up_residual_conv1(_filtered(y2, g1, self.attention_block1))
        size = (y1.shape[2], y1.shape[3])
        return Outputs(
            self.output_layer1(y1), self.output_layer2(resize(y2, size)), self.output_layer3(resize(y3, size))
        )


def _merged(conv: MConv, fine: Tensor, coarse: Tensor) -> Tensor:
    out: Tensor = conv(torch.cat([fine, resize(coarse, (fine.shape[2], fine.shape[3]))], 1))
    return out


def _filtered(target: Tensor, high: Tensor, gate: Gate | None) -> Tensor:
    assert gate is not None
    low = resize(high, (high.shape[2] // 2, high.shape[3] // 2))
    return guided_filter(low, target, high, gate(low, target))


def plain_fsgnet(width: int, depths: Sequence[int] = (3, 3, 9, 3), kernel: int = 3) -> FSGNet:
    """The network with fresh weights; at batch 1 equal to ``fsgnet(width, depths, kernel)`` with the same state."""
    return FSGNet(FullScaleTrunk(width, depths, kernel), PlainGuidedDecoder(width))
