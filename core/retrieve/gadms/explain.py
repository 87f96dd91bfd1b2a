"""What a model saw in an image for a sentence: a score per word, where the end token looks, which patches fit.

Specification: methods/ga-dms.md, sections 3.3 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ...errors import UsageError
from .clip import GADMS, at, end_position, split_heads
from .gass import GASSOptions, gass
from .prepare import preparation
from .tokenizer import Tokenizer, encode


@dataclass(frozen=True, slots=True)
class Explanation:
    """One image and one caption.

    Parameters
    ----------
    words : tuple of n str
        Tokens of the caption, as far as the model reads them.
    scores : ndarray [n], float32 in [0, 1]
        GASS: how much each token supports the match; the largest is 1 (or all are 0).
    attention : ndarray [layers, n], float32
        Attention of the end token to each token, mean over heads, in every text layer.
    patches : ndarray [rows, columns], float32
        Cosine of the sentence with each patch of the image.
    similarity : float
        Cosine of sentence and image, by which galleries are ranked.
    """

    words: tuple[str, ...]
    scores: NDArray[np.float32]
    attention: NDArray[np.float32]
    patches: NDArray[np.float32]
    similarity: float


def explain(
    model: GADMS, tokenizer: Tokenizer, image: NDArray[np.float32], caption: str, *, options: GASSOptions | None = None
) -> Explanation:
    """Explain one match.

    Parameters
    ----------
    model : GADMS
        In eval mode.
    tokenizer : Tokenizer
    image : ndarray, shape (3, H, W), float32 in [0, 1]
        Any size.
    caption : str
    options : GASSOptions, optional
        Default: as the model has layers, scores stretched over this caption.

    Returns
    -------
    Explanation

    Raises
    ------
    UsageError
        If the caption has no word.
    """
    shape, clip = model.shape, model.base_model
    device = clip.text_projection.device
    pieces = tokenizer.pieces(caption)[: shape.text_length - 2]
    if not pieces:
        raise UsageError(f"query {caption!r} has no words to explain")
    options = options or GASSOptions(scale="sample", layers=min(8, shape.text_layers))
    ids = torch.from_numpy(encode(tokenizer, [caption], shape.text_length).ids).to(device)
    words = slice(1, 1 + len(pieces))
    with torch.no_grad():
        pixels = preparation(shape.image_size)(image)[None].to(clip.text_projection)
        tokens = F.normalize(clip.image_tokens(pixels)[0], dim=1)  # [1 + patches, E]
        x, rows, end = clip.embed(ids), [], end_position(ids)
        for block in clip.transformer.blocks:
            q, k, _ = (split_heads(y, block.attn.heads) for y in block.attn.project(block.ln_1(x)))
            q_end = at(q.transpose(1, 2), end)  # [1, heads, head_dim]
            logits = (q_end[:, :, None] @ k.mT)[0, :, 0] * q.shape[-1] ** -0.5  # [heads, N]
            rows.append(logits[:, : int(end) + 1].softmax(-1).mean(0)[words])
            x = block(x, causal=True)
        text = F.normalize(clip.project_text(at(x, end)), dim=1)[0]
    scores = gass(clip, ids, clip.image_tokens(pixels)[:, 0], options)[0, words]
    cosine = (tokens @ text).float().cpu().numpy()
    return Explanation(
        tuple(text for text, _ in pieces), scores.float().cpu().numpy(), torch.stack(rows).float().cpu().numpy(),
        cosine[1:].reshape(shape.grid), float(cosine[0]),
    )  # fmt: skip
