"""What a model goes on with, token by token the most probable one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import AttnError
from ...models.hf import quiet
from ...options import OptionError
from ...text import reason_of


@dataclass(frozen=True, slots=True)
class GreedyTokens:
    """The answer to one prompt.

    Parameters
    ----------
    ids : Tensor of int64 [G]
        The one that ends the answer included.
    logits : Tensor [G, V], float32
        Each token is the largest of its row.
    state : Tensor [D], float32
        Of the last token of the prompt, behind the last normalisation.
    """

    ids: Tensor
    logits: Tensor
    state: Tensor

    @property
    def log_probabilities(self) -> Tensor:
        """Of the tokens, in nats, [G]."""
        return self.logits.log_softmax(-1).gather(1, self.ids[:, None])[:, 0]


@torch.no_grad()
def greedy(
    model: Any, inputs: Mapping[str, Any], *, max_new_tokens: int, field: str = "model"
) -> tuple[GreedyTokens, ...]:
    """Answers to a left-padded batch: no sampling and no penalties, whatever the model's own settings say of them.

    Parameters
    ----------
    model : Module
    inputs : mapping of str to Tensor
    max_new_tokens : int
        At most; fewer where the model's ``generation_config`` allows fewer: some are trained to answer in one.
    field : str
        The option that names the model, for errors.

    Raises
    ------
    UsageError
        If the model cannot run: weights that are no numbers, parts that do not fit, too little memory.
    """
    longest = min(max_new_tokens, model.generation_config.max_new_tokens or max_new_tokens)
    states: list[Tensor] = []

    def note(base: Any, args: Any, output: Any) -> None:
        if not states:  # the first call reads the prompt
            states.append(output.last_hidden_state[:, -1].float())

    handle = model.base_model.register_forward_hook(note)
    try:
        with quiet():
            out: Any = model.generate(
                **inputs, max_new_tokens=longest, do_sample=False, num_beams=1, repetition_penalty=1.0,
                no_repeat_ngram_size=0, return_dict_in_generate=True, output_logits=True,
            )  # fmt: skip
    except AttnError:
        raise
    except Exception as error:  # of any kind: parts that do not fit, a device that is full
        family = model.config.model_type
        raise OptionError(f"{{{field}}}: {family} cannot answer ({reason_of(error)}).") from error
    finally:
        handle.remove()
    length = inputs["input_ids"].shape[1]
    logits = torch.stack(out.logits, 1).float()  # [B, G, V]
    if not bool(logits.isfinite().all()):
        raise OptionError(
            f"{{{field}}}: its logits are no finite numbers: damaged weights, or {{dtype}} holds none so large. Use "
            "float32."
        )
    ends = torch.tensor(sorted(ends_of(model)), dtype=torch.int64, device=logits.device)
    found = []
    for ids, steps, state in zip(out.sequences[:, length:], logits, states[0], strict=True):
        over = torch.isin(ids, ends).nonzero().flatten()
        count = int(over[0]) + 1 if len(over) else len(ids)
        found.append(GreedyTokens(ids[:count], steps[:count], state))
    return tuple(found)


def ends_of(model: Any) -> frozenset[int]:
    """Token ids that end an answer."""
    ends = model.generation_config.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or [])
