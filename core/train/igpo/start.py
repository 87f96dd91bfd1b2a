"""What a run begins with: the small model and its sums, or a model of others and the questions of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ...models.files import fingerprint
from ...nets.masked_diffusion import MaskedDiffusionTransformer
from ...options import OptionError
from .export import SHAPE, read_small
from .options import IGPOOptions
from .parts import filled
from .policy import Policy
from .questions import TracedTask
from .sums import LONGEST, PROMPT, Sums


class Start(NamedTuple):
    """Who learns what.

    Parameters
    ----------
    policy : Policy or None
        None in a dry run.
    task : TracedTask
    length : int
        Tokens of what stage 1 learns.
    data : str
        The questions, for people.
    identity : mapping
        Of the run, beside its options.
    notices : tuple of str
    model : Any
        The model of others, with its tokeniser; None: the small one.
    """

    policy: Policy | None
    task: TracedTask
    length: int
    data: str
    identity: Mapping[str, Any]
    notices: tuple[str, ...] = ()
    model: Any = None


def start_of(options: IGPOOptions, device: torch.device) -> Start:
    """The start of a run with complete options. Raises ``UsageError`` or ``InputError`` for model or data.

    Of a dry run the model's weights are not read, and no questions are held out.
    """
    if options.source.model is None:
        return start_of_sums(options, device)
    from . import large  # imports transformers

    model = large.LargeModel(options)
    task = large.questions_of(options, model)
    length, data = filled(options.sampling.completion), task.path.name
    if options.dry_run is not None:
        return Start(None, task, length, data, {}, task.notes)
    task.split(filled(options.judged))
    policy = large.load_policy(options, model, device)
    return Start(policy, task, length, data, large.identity_of(model, task), task.notes, model)


def start_of_sums(options: IGPOOptions, device: torch.device) -> Start:
    """The small model, and drawn sums. Raises ``UsageError`` for the file to start from."""
    long = options.source.traces == "long"
    length = LONGEST if long else filled(options.sampling.completion)
    task = Sums(options.compute.seed, filled(options.judged), long=long, hint_answer=options.hints.hint_answer)
    if options.source.weights is None:
        torch.manual_seed(options.compute.seed)
        net = MaskedDiffusionTransformer(SHAPE)
    else:
        net = read_small(options.source.weights)
    if (room := net.shape.positions - PROMPT) < max(length, filled(options.sampling.completion)):
        raise OptionError(f"{{completion}}: the small model has room for {room} tokens behind a sum.")
    identity = {"weights": fingerprint([options.source.weights]) if options.source.weights else None}
    return Start(Policy(net.to(device), task.mask_id, task.eos_id), task, length, "drawn sums", identity)
