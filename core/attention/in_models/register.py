"""The operators as attention implementations of transformers."""

from __future__ import annotations

import functools

from ...errors import UsageError
from ..registry import OPERATORS


def register_attention() -> tuple[str, ...]:
    """Make every causal operator that is installed an attention implementation of transformers.

    Returns
    -------
    tuple of str
        Their names, for ``attn_implementation=``: ``"attn:hip"``.

    Raises
    ------
    UsageError
        If transformers is not installed, or older than its interface.

    Examples
    --------
    >>> import attn
    >>> attn.register_attention()[:2]
    ('attn:dense', 'attn:hip')
    >>> from transformers import AutoModelForCausalLM
    >>> model = AutoModelForCausalLM.from_pretrained("model/", attn_implementation="attn:hip")  # doctest: +SKIP
    >>> model.config.attn_parameters = {"mask_k": 512, "dense_layers": [0, 1]}  # doctest: +SKIP
    """
    try:
        from transformers.masking_utils import AttentionMaskInterface
        from transformers.modeling_utils import AttentionInterface
    except ImportError as error:
        raise UsageError(
            f"register_attention() needs transformers 5 ({error}). Install it: pip install 'transformers>=5'"
        ) from None

    from .layer import run_layer
    from .masks import describe

    names = []
    for name, row in OPERATORS.items():
        if row.missing() or True not in row.resolve().causal or row.resolve().grid:
            continue
        names.append(f"attn:{name}")
        AttentionInterface.register(names[-1], functools.partial(run_layer, name))
        AttentionMaskInterface.register(names[-1], describe)
    return tuple(names)
