"""OAT, the object-level attention transformer of gaze scanpaths (arXiv 2407.13335): methods/oat.md, sections 3.1-3.5.

N objects lie on a grid of rows x cols, index row * cols + col. Tokens: 0..N-1 objects, EOS = N, PAD = N+1, BOS = N+2.
The encoder's last token is the target's crop at index N, so EOS and "attend to the target token" are one index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class OATShape:
    """Sizes of the network. `pyramid` levels of pooling (2, 3 or 4), `head_width` is d_k of the read-out."""

    width: int = 512
    heads: int = 4
    layers: int = 4
    feed_forward: int = 512
    readout_heads: int = 2
    head_width: int = 512
    pyramid: int = 3
    dropout: float = 0.1


def sinusoid(positions: Tensor, channels: int) -> Tensor:
    """(...) positions to (..., channels) float: interleaved (sin, cos) pairs, base 10000; channels is even."""
    rate = 10000.0 ** (-torch.arange(0, channels, 2, dtype=torch.float32, device=positions.device) / channels)
    angle = positions[..., None].float() * rate
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(-2)


def index_triples(tokens: Tensor, target: Tensor, rows: int, cols: int) -> Tensor:
    """Row, column and "is the target" of decoder tokens (T, B) with targets (B,): int64 (T, B, 3).

    BOS lies at (rows // 2, cols // 2), as the reference's look-up truncates it; EOS and PAD get row = rows.
    """
    found = torch.stack((tokens // cols, tokens % cols, (tokens == target).long()), -1)
    end = (tokens == rows * cols) | (tokens == rows * cols + 1)
    found[..., 0] = torch.where(end, rows, found[..., 0])
    centre = torch.tensor((rows // 2, cols // 2, 0), device=tokens.device)
    return torch.where((tokens == rows * cols + 2)[..., None], centre, found)


def table_width(channels: int) -> int:
    """Columns m of the learned table for `channels` = E/2, three of which cover it (86 for 256)."""
    return channels // 3 + 1


def table_loss(table: Tensor, sigma: float = 2.0) -> Tensor:
    """Equation of section 3.4 for a table (R, m): cosine similarities against a Gaussian of distance, equal norms."""
    size = len(table)
    norm = table.norm(dim=1)
    similarity = (table @ table.T) / (norm[:, None] * norm)
    place = torch.arange(size, dtype=table.dtype, device=table.device)
    wanted = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
    found: Tensor = ((similarity - wanted) ** 2).sum() + ((norm - norm.mean()) ** 2).mean()
    return found / (size * (size - 1))


def learned_table(size: int, channels: int, seed: int, sigma: float = 2.0, steps: int = 10_000) -> Tensor:
    """The frozen table (size + 4, m) float32 of section 3.4; its last four rows are zero."""
    table = torch.randn(size, table_width(channels), generator=torch.Generator().manual_seed(seed)).requires_grad_()
    optimiser = torch.optim.Adam([table], lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        table_loss(table, sigma).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return F.pad(table.detach(), (0, 0, 0, 4))


class LearnedPositions(nn.Module):
    """Row, column and flag looked up in one table (R + 4, m), joined and cut to `channels`."""

    table: Tensor

    def __init__(self, table: Tensor, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("table", table)

    def forward(self, triples: Tensor) -> Tensor:
        found: Tensor = self.table[triples.long()].flatten(-2)[..., : self.channels]
        return found


class OriginalPositions(nn.Module):
    """3-D sinusoid; tokens outside the grid (EOS, PAD) are zero.

    The reference takes row 3 for "outside" whatever the grid, so on more than three rows real objects lose their
    position; `compat` brings that back (section 9).
    """

    def __init__(self, channels: int, rows: int, compat: bool = False) -> None:
        super().__init__()
        self.channels, self.rows, self.compat = channels, rows, compat
        self.axis = 2 * math.ceil(channels / 6)

    def forward(self, triples: Tensor) -> Tensor:
        row = triples.long()[..., 0]
        blank = row == 3 if self.compat else row >= self.rows
        found = sinusoid(triples.long(), self.axis).flatten(-2)[..., : self.channels]
        return found.masked_fill(blank[..., None], 0.0)


class CropEncoder(nn.Module):
    """Crops (..., h, w, 3) float in [0, 1] to (..., channels): two convolutions and a pyramid of max pools."""

    def __init__(self, channels: int, pyramid: int) -> None:
        super().__init__()
        self.cnn1 = nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU(), nn.MaxPool2d(5))
        self.cnn2 = nn.Sequential(nn.Conv2d(16, 32, 3), nn.ReLU())
        self.bins = [2**level for level in range(pyramid)]
        self.fc = nn.Linear(32 * sum(b * b for b in self.bins), channels)

    def forward(self, crops: Tensor) -> Tensor:
        maps: Tensor = self.cnn2(self.cnn1(crops.flatten(0, -4).movedim(-1, 1)))
        found: Tensor = self.fc(torch.cat([self.pooled(maps, b) for b in self.bins], 1))
        return found.reshape(*crops.shape[:-3], -1)

    @staticmethod
    def pooled(maps: Tensor, bins: int) -> Tensor:
        height, width = maps.shape[-2:]
        kernel = (math.ceil(height / bins), math.ceil(width / bins))
        tall, wide = bins * kernel[0] - height, bins * kernel[1] - width
        padded = F.pad(maps, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2))
        return F.max_pool2d(padded, kernel).flatten(1)


class ObjectAttention(nn.Module):
    """One head of the read-out: (T, B, E) and (N, B, E) to logits (T, B, N), scaled by sqrt(d_k)."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.decode_fc, self.encode_fc = nn.Linear(width, head_width), nn.Linear(width, head_width)

    def forward(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        scores = torch.einsum("tbd,nbd->tbn", self.decode_fc(decoded), self.encode_fc(encoded))
        return scores / math.sqrt(self.decode_fc.out_features)


class OAT(nn.Module):
    """The network of section 3, parameter names of the official state dict, `CA version 3` read-out."""

    UNUSED = ("generator.", "LinearEmbedding.")  # in the official state dict, in no path of version 3

    def __init__(self, shape: OATShape, positions: LearnedPositions | OriginalPositions) -> None:
        super().__init__()
        e, h, f = shape.width, shape.heads, shape.feed_forward
        encoder = nn.TransformerEncoderLayer(e, h, f, shape.dropout)
        decoder = nn.TransformerDecoderLayer(e, h, f, shape.dropout)
        self.transformer_encoder = nn.TransformerEncoder(encoder, shape.layers, enable_nested_tensor=False)
        self.transformer_decoder = nn.TransformerDecoder(decoder, shape.layers)
        self.cnn_embedding = CropEncoder(e // 2, shape.pyramid)
        self.cross_attentions = nn.ModuleList(ObjectAttention(e, shape.head_width) for _ in range(shape.readout_heads))
        self.readout = nn.Linear(shape.readout_heads, 1)
        self.dropout = nn.Dropout(shape.dropout)
        self.positions = positions
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)

    def encode(self, appearance: Tensor, triples: Tensor) -> Tensor:
        """Appearance (N+1, B, E/2) and triples (N+1, B, 3) to the encoder's output (N+1, B, E)."""
        found: Tensor = self.transformer_encoder(torch.cat((appearance, self.positions(triples)), -1))
        return found

    def read(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        """(T, B, E) and (N+1, B, E) to logits (T, B, N+2); PAD's is the bias of the read-out, not 0."""
        heads = torch.stack([F.pad(head(decoded, encoded), (0, 1)) for head in self.cross_attentions], -1)
        found: Tensor = self.readout(heads).squeeze(-1)
        return found

    def steps(self, appearance: Tensor, triples: Tensor, first: int = 0) -> Tensor:
        tokens = torch.cat((appearance, self.positions(triples)), -1)
        step = torch.arange(first, first + len(tokens), device=tokens.device)
        found: Tensor = self.dropout(tokens + sinusoid(step, tokens.shape[-1])[:, None])
        return found

    def decode(self, appearance: Tensor, triples: Tensor, encoded: Tensor, padding: Tensor | None = None) -> Tensor:
        """Logits (T, B, N+2) of a whole prefix; `padding` (B, T) bool is true at PAD."""
        mask = torch.ones(len(triples), len(triples), dtype=torch.bool, device=encoded.device).triu(1)
        tokens = self.steps(appearance, triples)
        decoded = self.transformer_decoder(tokens, encoded, tgt_mask=mask, tgt_key_padding_mask=padding)
        return self.read(decoded, encoded)


def split_heads(values: Tensor, heads: int) -> Tensor:
    """(T, B, E) to (B, heads, T, E / heads)."""
    return values.reshape(*values.shape[:-1], heads, -1).permute(1, 2, 0, 3)


def attend(attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(1, B, E) projected query over split keys and values, through the layer's output projection: (1, B, E)."""
    mixed = F.scaled_dot_product_attention(split_heads(query, attention.num_heads), key, value)
    found: Tensor = attention.out_proj(mixed.permute(2, 0, 1, 3).flatten(-2))
    return found


class CachedDecoder:
    """One decoder step at a time; keys and values of the past and of the encoder are kept. Evaluation only."""

    def __init__(self, net: OAT, encoded: Tensor) -> None:
        self.net, self.encoded, self.length = net, encoded, 0
        self.layers = list(net.transformer_decoder.layers)
        self.past: list[tuple[Tensor, Tensor] | None] = [None] * len(self.layers)
        self.memory: list[tuple[Tensor, Tensor]] = []
        for layer in self.layers:
            attention = layer.multihead_attn
            _, wk, wv = attention.in_proj_weight.chunk(3)
            _, bk, bv = attention.in_proj_bias.chunk(3)
            key, value = F.linear(encoded, wk, bk), F.linear(encoded, wv, bv)
            self.memory.append((split_heads(key, attention.num_heads), split_heads(value, attention.num_heads)))

    def step(self, appearance: Tensor, triples: Tensor) -> Tensor:
        """Appearance (1, B, E/2), triples (1, B, 3) of the newest token to its logits (B, N+2)."""
        x = self.net.steps(appearance, triples, self.length)
        self.length += 1
        for i, layer in enumerate(self.layers):
            own, cross = layer.self_attn, layer.multihead_attn
            query, key, value = F.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, -1)
            key, value = split_heads(key, own.num_heads), split_heads(value, own.num_heads)
            past = self.past[i]
            if past is not None:
                key, value = torch.cat((past[0], key), 2), torch.cat((past[1], value), 2)
            self.past[i] = (key, value)
            x = layer.norm1(x + attend(own, query, key, value))
            width = x.shape[-1]
            query = F.linear(x, cross.in_proj_weight[:width], cross.in_proj_bias[:width])
            x = layer.norm2(x + attend(cross, query, *self.memory[i]))
            x = layer.norm3(x + layer.linear2(F.relu(layer.linear1(x))))
        return self.net.read(x, self.encoded)[0]


Decoding = Literal["cached", "literal"]


@torch.no_grad()
def generate(
    net: OAT,
    crops: Tensor,
    triples: Tensor,
    target: int,
    rows: int,
    cols: int,
    *,
    longest: int,
    samples: int | None = None,
    generator: torch.Generator | None = None,
    decoding: Decoding = "cached",
) -> list[list[int]]:
    """Paths of object ids over one scene, without EOS, at most `longest` fixations (section 3.5).

    `crops` (N+1, h, w, 3) float, the target's last; `triples` (N+1, 3). `samples` None: one greedy path, else that
    many drawn ones. `literal` runs the whole network on the whole prefix at each step, as the reference does.
    """
    net.eval()
    objects, batch = rows * cols, samples or 1
    goal = torch.full((batch,), target, device=crops.device)
    looks = net.cnn_embedding(torch.cat((crops, torch.zeros_like(crops[:1]), torch.ones_like(crops[:1]))))
    # a blank of zeros stands at N for EOS, which ends a path: what follows it is cut
    looks = torch.cat((looks[:objects], looks[objects + 1 : objects + 2].expand(2, -1), looks[-1:]))
    tokens = torch.full((1, batch), objects + 2, device=crops.device)

    def encoded() -> Tensor:
        seen = net.cnn_embedding(crops)
        return net.encode(seen[:, None], triples[:, None]).expand(-1, batch, -1)

    cache = CachedDecoder(net, encoded()) if decoding == "cached" else None
    done = torch.zeros(batch, dtype=torch.bool, device=crops.device)
    for step in range(longest):
        where = index_triples(tokens, goal, rows, cols)
        if cache is not None:
            logits = cache.step(looks[tokens[-1:]], where[-1:])
        else:
            logits = net.decode(looks[tokens], where, encoded())[-1]
        logits = logits[:, : objects if step == 0 else objects + 1]
        if samples is None:
            chosen = logits.argmax(-1)
        else:
            chosen = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        tokens = torch.cat((tokens, chosen[None]))
        done |= chosen == objects
        if bool(done.all()):
            break
    paths = [path[1:] for path in tokens.T.tolist()]
    return [path[: path.index(objects)] if objects in path else path for path in paths]
