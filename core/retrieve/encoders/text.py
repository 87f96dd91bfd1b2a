"""Text encoders: tokens, transformer, pooling over real tokens, dense layers, unit length.

Specification: methods/tempscale.md, section 3.5; batches by methods/retrieval-peers.md, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.bert import Bert
from ...models.tokens import Tokens, batches, padded, tokenise, vocabulary
from ...options import OptionError
from ..tempscale import scaled
from .base import Encoded, Fingerprint, Side, no_images

POOLINGS = ("mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean")


@dataclass(frozen=True)
class TextEncoder:
    """A transformer with what turns its hidden states into one vector a text.

    Parameters
    ----------
    model : Module
        Our own BERT or a model of transformers, in eval mode, on ``device``.
    tokeniser : FileTokeniser or tokeniser of transformers
    fingerprint : Fingerprint
    device : torch.device
    head : Module
        From the pooled [B, F] to [B, dim]; the identity where there are no dense layers.
    prompts : mapping of side to str
        Put in front of every text.
    lower : bool
        Lower-case the text first.
    warnings : tuple of str
    """

    model: nn.Module
    tokeniser: Any
    fingerprint: Fingerprint
    device: torch.device
    head: nn.Module = field(default_factory=nn.Identity)
    prompts: Mapping[str, str] = field(default_factory=dict)
    lower: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def engine(self) -> str:
        """See ``Encoder``."""
        return "attn" if isinstance(self.model, Bert) else "transformers"

    @property
    def modalities(self) -> frozenset[str]:
        """Texts only."""
        return frozenset({"text"})

    def at(self, tau: float) -> TextEncoder:
        """The same encoder at another temperature; the weights are shared."""
        return replace(self, fingerprint=replace(self.fingerprint, temperature=tau))

    def cut(self, max_tokens: int) -> TextEncoder:
        """The same encoder for texts of at most ``max_tokens`` tokens; the weights are shared."""
        return replace(self, fingerprint=replace(self.fingerprint, max_tokens=max_tokens))

    def tokens(self, texts: Sequence[str], side: Side = "document") -> Tokens:
        """What of each text the model sees."""
        prompt = self.prompts.get(side, "")
        return tokenise(
            self.tokeniser,
            [prompt + (text.lower() if self.lower else text) for text in texts],
            self.fingerprint.max_tokens,
        )

    def batch(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` [B, L] on the device."""
        known = vocabulary(self.model)
        input_ids, mask = padded(ids, self.tokeniser.pad_token_id or 0, known=known)
        return {"input_ids": input_ids.to(self.device), "attention_mask": mask.to(self.device)}

    def encode_texts(self, texts: Sequence[str], *, side: Side = "document") -> Encoded:
        """See ``Encoder``."""
        tokens = self.tokens(texts, side)
        vectors = np.zeros((len(tokens.ids), self.fingerprint.dim), np.float32)
        with torch.inference_mode(), scaled(self.model, self.fingerprint.temperature):
            for rows in batches(tokens.counts):
                batch = self.batch([tokens.ids[row] for row in rows])
                hidden = self.model(**batch).last_hidden_state
                pooled = pool(hidden.float(), batch["attention_mask"], self.fingerprint.pooling)
                vectors[rows] = unit(self.head(pooled), self.fingerprint.model)
        return Encoded(vectors, tokens.truncated, tokens.counts)

    def encode_images(self, images: Sequence[NDArray[np.float32]]) -> Encoded:
        """Raises ``UsageError``: this encodes texts."""
        raise no_images(self.fingerprint.model)


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector a text of hidden states [B, L, D], mask [B, L]; several poolings, joined by ``+``, side by side."""
    weight = mask.to(hidden.dtype).unsqueeze(-1)  # [B, L, 1]
    count = weight.sum(1)  # [B, 1]
    parts = []
    for name in pooling.split("+"):
        match name:
            case "mean":
                parts.append((hidden * weight).sum(1) / count)
            case "mean_sqrt_len_tokens":
                parts.append((hidden * weight).sum(1) / count.sqrt())
            case "weightedmean":  # later tokens count more: the states of decoders have seen more there
                place = weight * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[:, None]
                parts.append((hidden * place).sum(1) / place.sum(1))
            case "cls":
                parts.append(hidden[:, 0])
            case "lasttoken":
                parts.append(hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1])
            case "max":
                parts.append(hidden.masked_fill(weight == 0, -torch.inf).amax(1))
            case _:
                raise ValueError(f"no pooling named {name!r}; there are {', '.join(POOLINGS)}")
    return torch.cat(parts, -1)


def unit(vectors: Tensor, model: str) -> NDArray[np.float32]:
    """Rows of length 1 [B, dim]. Raises ``UsageError`` where the model gave NaN or infinity."""
    out: NDArray[np.float32] = F.normalize(vectors.float(), dim=-1).cpu().numpy()
    if not np.isfinite(out).all():
        raise OptionError(f"{{model}}: {model} gives NaN. Use {{dtype}} float32, or check its weights.")
    return out
