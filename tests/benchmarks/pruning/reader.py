"""The packaged ViT and SmolLM2 as one vision-language model: only the projector between them is trained.

First each visual token is drawn to the language model's own embeddings of the words in the photo's captions, without
running it; then the frozen language model is run, and captions and words must become likely behind the visual tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .photos import TOKENS, CaptionedPhotos

BLOCK = 11
"""Whose output is projected: the last block has lost part of its semantics (data/MODELS.md)."""
START, PLACE = 0, 4
"""Ids of SmolLM2: <|endoftext|>, and <reponame>, which stands for a visual token."""
CAPTION, QUESTION = "\nCaption:", "\nQuestion: What is in the photo?\nAnswer:"
STOP = set(
    "a an the of in on at with and is are to that it its this there by for from as has have his her their while up "
    "down out off over into onto through near next who some very being him he she them they all or be i s t"
    .split()
)  # fmt: skip
LEAST, LONGEST, CAPTIONS = 5, 18, 3
BATCH, EPOCHS = 32, 12


def assembled(vit: Any, language: Any, projector: Projector) -> Any:
    """``LlavaForConditionalGeneration`` of the three in bfloat16 (several times as fast here), the head in float32."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=vit.config, text_config=language.config, image_token_id=PLACE, vision_feature_layer=BLOCK,
        vision_feature_select_strategy="default", image_seq_length=TOKENS, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower, model.model.language_model = vit, language.model
    model.model.multi_modal_projector.to_empty(device="cpu")
    projector.into(model.model.multi_modal_projector)
    head = FullHead(language.lm_head.weight.float().clone())
    model.lm_head = None
    model.eval().requires_grad_(False).bfloat16()
    model.lm_head = head
    return model


class FullHead(nn.Module):
    """The language model's head in float32, whatever it is given: log probabilities are compared.

    Parameters
    ----------
    weight : Tensor of float32 [words, D]
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.float() @ self.weight.T


class Projector(nn.Sequential):
    """What LLaVA's is, on standardised features."""

    def __init__(self, mean: Tensor, std: Tensor, width: int) -> None:
        super().__init__(nn.Linear(len(mean), width), nn.GELU(), nn.Linear(width, width))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = super().forward((features - self.mean) / self.std)
        return out

    @torch.no_grad()
    def into(self, projector: Any) -> None:
        """Become LLaVA's, the standardisation folded into its first layer."""
        weight = self[0].weight / self.std
        projector.linear_1.weight.copy_(weight)
        projector.linear_1.bias.copy_(self[0].bias - weight @ self.mean)
        projector.linear_2.load_state_dict(self[2].state_dict())


def frequent_words(photos: CaptionedPhotos) -> list[str]:
    """Words of captions that enough photos have, but those of grammar."""
    counts = Counter(word for words in photos.words() for word in words)
    return [word for word, count in counts.items() if count >= LEAST and word not in STOP and len(word) > 1]


def first_tokens(tokeniser: Any, words: Sequence[str]) -> Tensor:
    """The first token of each word behind a space, [n] int64."""
    return torch.tensor([tokeniser(" " + word).input_ids[0] for word in words])


def fit_words(
    projector: Projector, features: Tensor, labels: Tensor, embeddings: Tensor, seed: int, told: Callable[[str], None]
) -> None:  # fmt: skip
    """Visual tokens to the embeddings of words: some token of a photo must be alike each word of its captions.

    Parameters
    ----------
    features : Tensor [photos, views, tokens, C]
    labels : Tensor of bool [photos, words]
    embeddings : Tensor [words, D]
    """
    generator = torch.Generator().manual_seed(seed)
    bias = nn.Parameter(torch.logit(labels.float().mean(0)))
    optimiser = torch.optim.AdamW([*projector.parameters(), bias], lr=1e-3, weight_decay=0.05)
    size = float(embeddings.square().mean().sqrt())
    steps = EPOCHS * -(-len(features) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(features), generator=generator).split(BATCH):
            view = torch.randint(features.shape[1], batch.shape, generator=generator)
            with torch.autocast("cpu", torch.bfloat16):
                tokens = projector(F.dropout(features[batch, view].float(), 0.1))
                scores = tokens @ embeddings.T
            alike, tokens = scores.float().logsumexp(1) - torch.tensor(TOKENS).log(), tokens.float()
            rms = tokens.square().mean(-1).sqrt()
            loss = F.binary_cross_entropy_with_logits(alike + bias, labels[batch].float())
            (loss + (rms / size - 1).square().mean() * 0.02).backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            total += loss.item() * len(batch)
        if epoch % 3 == 2:
            told(f"words, epoch {epoch + 1}: {total / len(features):.4f}, size {rms.mean().item() / size:.2f}")


@dataclass(frozen=True)
class Packed:
    """Texts behind the visual tokens of some photos; each sees the photo and itself.

    Parameters
    ----------
    ids : Tensor of int64 [B, n]
    positions : Tensor of int64 [B, start + n]
    mask : Tensor of bool [B, 1, start + n, start + n]
    reads : list of (Tensor, Tensor, Tensor)
        Of each photo's each text: its row in the batch, the places whose output predicts, and the ids that are to come.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    reads: list[list[tuple[Tensor, Tensor]]]


def packed(texts: Sequence[Sequence[tuple[list[int], list[int]]]], before: int) -> Packed:
    """Texts (prompt, answer) of each photo, one behind the other, ``before`` rows in front of them."""
    length = max(sum(len(a) + len(b) for a, b in rows) for rows in texts)
    ids = torch.full((len(texts), length), START)
    owner = torch.full((len(texts), before + length), -1)
    owner[:, :before] = 0
    positions = torch.arange(before + length).repeat(len(texts), 1)
    reads: list[list[tuple[Tensor, Tensor]]] = []
    for row, own in enumerate(texts):
        at = 0
        reads.append([])
        for number, (prompt, answer) in enumerate(own):
            both = torch.tensor(prompt + answer)
            ids[row, at : at + len(both)] = both
            owner[row, before + at : before + at + len(both)] = number + 1
            positions[row, before + at : before + at + len(both)] = before + torch.arange(len(both))
            first = before + at + len(prompt) - 1
            reads[-1].append((torch.arange(first, first + len(answer)), torch.tensor(answer)))
            at += len(both)
    sees = (owner[:, None, :] == 0) | (owner[:, None, :] == owner[:, :, None])
    mask = (sees & torch.ones(before + length, before + length, dtype=torch.bool).tril())[:, None]
    return Packed(ids, positions, mask, reads)


def hidden_states(language: Any, visual: Tensor, texts: Packed) -> Tensor:
    """What the language model makes of visual tokens [B, n, D] and texts, [B, 1 + n + m, D]."""
    embed = language.get_input_embeddings()
    start = embed(torch.full((len(visual), 1), START))
    embeds = torch.cat([start, visual.to(start.dtype), embed(texts.ids)], 1)
    out: Tensor = language.model(
        inputs_embeds=embeds, attention_mask=texts.mask, position_ids=texts.positions, use_cache=False
    ).last_hidden_state
    return out


@dataclass(frozen=True)
class Lesson:
    """What the language model is taught of a photo.

    Parameters
    ----------
    captions : list of list of int
    words : list of int
        First tokens of the things in it.
    """

    captions: list[list[int]]
    words: list[int]


def lesson_loss(language: Any, tokeniser: Any, visual: Tensor, lessons: Sequence[Lesson], picks: Tensor) -> Tensor:
    """Mean nats of a token of captions ``picks`` [B, k], and of the words that are an answer."""
    caption, question = tokeniser(CAPTION).input_ids, tokeniser(QUESTION).input_ids
    texts = [
        [*((caption, lesson.captions[pick % len(lesson.captions)]) for pick in own.tolist()), (question, [START])]
        for lesson, own in zip(lessons, picks, strict=True)
    ]
    layout = packed(texts, 1 + visual.shape[1])
    hidden = hidden_states(language, visual, layout)
    said, wanted, answers = [], [], []
    for row, reads in enumerate(layout.reads):
        for places, ids in reads[:-1]:
            said.append(hidden[row, places])
            wanted.append(ids)
        answers.append(hidden[row, reads[-1][0][0]])
    logits = language.lm_head(torch.cat(said)).float()
    loss = F.cross_entropy(logits, torch.cat(wanted))
    scores = language.lm_head(torch.stack(answers)).float().log_softmax(-1)
    named = [-scores[row, lesson.words].mean() for row, lesson in enumerate(lessons) if lesson.words]
    return loss + torch.stack(named).mean() if named else loss


def fit_language(
    projector: Projector, language: Any, tokeniser: Any, features: Tensor, lessons: Sequence[Lesson], steps: int,
    batch: int, seed: int, told: Callable[[str], None], keep: Callable[[], None],
) -> None:  # fmt: skip
    """Captions and words more likely behind the visual tokens; the language model stays as it is."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(projector.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    order: list[int] = []
    recent: list[float] = []
    for step in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(features), generator=generator).tolist()
        index, order = torch.tensor(order[:batch]), order[batch:]
        view = torch.randint(features.shape[1], index.shape, generator=generator)
        picks = torch.rand(batch, 5, generator=generator).argsort(1)[:, :CAPTIONS]
        visual = projector(F.dropout(features[index, view].float(), 0.1))
        loss = lesson_loss(language, tokeniser, visual, [lessons[i] for i in index.tolist()], picks)
        loss.backward()
        nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        recent.append(loss.item())
        if step % 20 == 19:
            told(f"language model, step {step + 1}: {sum(recent[-20:]) / 20:.3f}")
            keep()


def caption_ids(tokeniser: Any, text: str) -> list[int]:
    """A caption behind ``CAPTION``."""
    ids: list[int] = tokeniser(" " + re.sub(r"\s+", " ", text)).input_ids
    return ids[:LONGEST]
