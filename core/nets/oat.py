"""OAT, the object-level attention transformer of gaze scanpaths (arXiv 2407.13335): methods/oat.md, sections 3.1-3.5.

N objects lie on a grid of rows x cols, index row * cols + col. Tokens: 0..N-1 objects, EOS = N, PAD = N+1, BOS = N+2.
The encoder's last token is the target's crop at index N, so EOS and "attend to the target token" are one index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

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
    """Row, column and flag looked up in one table (R + 4, m), joined and cut to `channels`.

    Between two rows of the table it is interpolated, so that boxes need not stand on a grid (section 5).
    """

    table: Tensor

    def __init__(self, table: Tensor, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("table", table)

    def forward(self, triples: Tensor) -> Tensor:
        low = triples.long()
        high = (low + 1).clamp(max=len(self.table) - 1)
        share = (triples - low)[..., None].to(self.table.dtype)
        found: Tensor = torch.lerp(self.table[low], self.table[high], share).flatten(-2)[..., : self.channels]
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
        row = triples[..., 0]
        blank = row.round() == 3 if self.compat else row >= self.rows
        found = sinusoid(triples, self.axis).flatten(-2)[..., : self.channels]
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


def token_triples(triples: Tensor, target: int, rows: int, cols: int) -> Tensor:
    """What `index_triples` says of each token of one scene, from the encoder's triples (N+1, 3): (N+3, 3).

    Objects lie where the encoder has them, which may be anywhere.
    """
    found = torch.cat((triples[:-1], triples.new_tensor([(rows, 0, 0), (rows, 1, 0), (rows // 2, cols // 2, 0)])))
    found[:, 2] = 0
    found[target, 2] = 1
    return found


def split_heads(values: Tensor, heads: int) -> Tensor:
    """(T, E) to (heads, T, E / heads)."""
    return values.reshape(len(values), heads, -1).transpose(0, 1)


class CachedDecoder:
    """One decoder step at a time for many paths over one scene. Evaluation only.

    Kept are keys and values of the past, and of the scene, once for all paths: keys and values of the encoder's
    output in each layer, the read-out's projection of it, and the embedding of each token.

    Parameters
    ----------
    net : OAT
    encoded : Tensor (N+1, E)
    embedded : Tensor (N+3, E)
        Appearance and position of each token.
    paths, longest : int
        Of which there are so many, none longer.
    """

    def __init__(self, net: OAT, encoded: Tensor, embedded: Tensor, paths: int, longest: int) -> None:
        self.net, self.length = net, 0
        self.layers: list[Any] = list(net.transformer_decoder.layers)
        heads, width = self.layers[0].self_attn.num_heads, encoded.shape[-1]
        heads_of: list[Any] = list(net.cross_attentions)
        self.embedded = embedded
        self.clock = sinusoid(torch.arange(longest, device=encoded.device), width)
        self.past = encoded.new_empty(len(self.layers), 2, paths, heads, longest, width // heads)
        self.memory: list[tuple[Tensor, Tensor]] = []
        for layer in self.layers:
            attention = layer.multihead_attn
            _, key, value = F.linear(encoded, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
            self.memory.append((split_heads(key, heads), split_heads(value, heads)))
        # a read-out head is a bilinear form: its encoder's side, scale and weight in the sum are folded into one matrix
        self.looked = encoded.new_zeros(len(encoded), width)
        self.looked_bias = net.readout.bias.expand(len(encoded))
        for head, weight in zip(heads_of, net.readout.weight[0], strict=True):
            side = head.encode_fc(encoded) * (weight / math.sqrt(head.encode_fc.out_features))
            self.looked = self.looked + side @ head.decode_fc.weight
            self.looked_bias = self.looked_bias + side @ head.decode_fc.bias

    def keep(self, alive: Tensor) -> None:
        """Go on with some of the paths, by a mask (paths,) of bool."""
        self.past = self.past[:, :, alive]

    def step(self, tokens: Tensor) -> Tensor:
        """The newest token of each path (paths,) to its logits over objects and EOS (paths, N+1)."""
        x = self.embedded[tokens] + self.clock[self.length]
        paths, now = len(x), self.length + 1
        for layer, past, (key, value) in zip(self.layers, self.past, self.memory, strict=True):
            own, cross = layer.self_attn, layer.multihead_attn
            heads, width = own.num_heads, x.shape[-1]
            fresh = F.linear(x, own.in_proj_weight, own.in_proj_bias).reshape(paths, 3, heads, -1)
            past[:, :, :, self.length] = fresh[:, 1:].transpose(0, 1)
            seen = past[:, :, :, :now]
            mixed = F.scaled_dot_product_attention(fresh[:, 0, :, None], seen[0], seen[1])
            x = layer.norm1(x + own.out_proj(mixed.reshape(paths, width)))
            # all paths ask one scene: to its keys they are one long query
            query = split_heads(F.linear(x, cross.in_proj_weight[:width], cross.in_proj_bias[:width]), heads)
            mixed = F.scaled_dot_product_attention(query, key, value)
            x = layer.norm2(x + cross.out_proj(mixed.transpose(0, 1).reshape(paths, width)))
            x = layer.norm3(x + layer.linear2(F.relu(layer.linear1(x))))
        self.length = now
        return torch.addmm(self.looked_bias, x, self.looked.T)


Decoding = Literal["cached", "literal"]


def chosen_tokens(logits: Tensor, uniform: Tensor | None) -> Tensor:
    """(paths, C) logits to (paths,) tokens: the likeliest, or where ``uniform`` (paths,) in [0, 1) falls among them."""
    if uniform is None:
        return logits.argmax(-1)
    total = logits.double().softmax(-1).cumsum(-1)
    return (total <= uniform[:, None].double() * total[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)


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
    objects, paths = len(triples) - 1, samples or 1
    places = token_triples(triples, target, rows, cols)
    looks = net.cnn_embedding(torch.cat((crops, torch.zeros_like(crops[:1]), torch.ones_like(crops[:1]))))
    # a blank of zeros stands at N for EOS, which ends a path: what follows it is cut
    looks = torch.cat((looks[:objects], looks[objects + 1 : objects + 2].expand(2, -1), looks[-1:]))

    def encoded() -> Tensor:
        return net.encode(net.cnn_embedding(crops)[:, None], triples[:, None])

    cache = None
    if decoding == "cached":
        embedded = torch.cat((looks, net.positions(places)), -1)
        cache = CachedDecoder(net, encoded()[:, 0], embedded, paths, longest)
    tokens = torch.full((longest + 1, paths), objects, device=crops.device)
    tokens[0] = objects + 2
    alive = torch.arange(paths, device=crops.device)
    for step in range(longest):
        if cache is not None:
            logits = cache.step(tokens[step, alive])
        else:
            prefix = tokens[: step + 1]
            logits = net.decode(looks[prefix], places[prefix], encoded().expand(-1, paths, -1))[-1, alive]
        # drawn for all paths, so that what one path meets does not hang on which others have ended
        uniform = None if samples is None else torch.rand(paths, generator=generator, device=crops.device)[alive]
        chosen = chosen_tokens(logits[:, : objects if step == 0 else objects + 1], uniform)
        tokens[step + 1, alive] = chosen
        going = chosen != objects
        if not bool(going.all()):
            alive = alive[going]
            if not len(alive):
                break
            if cache is not None:
                cache.keep(going)
    drawn = tokens[1:].T.tolist()
    return [path[: path.index(objects)] if objects in path else path for path in drawn]
