"""The operators inside the user's own language model: one line added to a script that uses transformers.

::

    import attn
    attn.register_attention()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="attn:hip")

Everything else stays as it was: prefill and decode with the model's cache (dynamic or static), prompts in parts,
grouped heads, batches padded at one end, packed rows, beams, training without dropout, the text part of a
vision-language model (``attn_implementation={"text_config": "attn:hip"}``). A decode step is that of the operator:
``hisa`` and ``dsa`` keep their index, ``lightning`` its state, and ``hip`` its choice of keys where ``mask_refresh`` is
given. Models whose code does not ask transformers for its attention, such as Bloom, cannot run with it.

Parameters stand in ``model.config.attn_parameters`` (for a model with several parts, of its text part), or hold for a
while: ``with attn.attention_parameters(dense_layers=(0, 1), mask_k=256): ...``. What really ran in which layer is
collected by ``with attn.attention_log() as ran: ...``.

Nothing falls back in silence. What an operator cannot do for a layer raises one line that names the layer and the
remedy. A layer to which the model itself gives a sliding window keeps that window, exactly; the log and a warning say
so.
"""

from __future__ import annotations

from .log import Ran, attention_log
from .parameters import attention_parameters
from .register import register_attention

__all__ = ["Ran", "attention_log", "attention_parameters", "register_attention"]
