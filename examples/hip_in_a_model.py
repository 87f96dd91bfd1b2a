"""HiP inside a language model: one line more in a script that uses transformers. Half a minute on two CPU cores.

Usage: python examples/hip_in_a_model.py [OUTPUT_DIRECTORY] [MODEL_FOLDER_OR_ID]

Without a model it runs one of random weights, which shows how it is done, not what it does to a text.
"""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from pydoc_data.topics import topics

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import attn

out = Path(sys.argv[1] if len(sys.argv) > 1 else "hip-example")
out.mkdir(parents=True, exist_ok=True)
text = "\n".join(topics.values())  # of the documentation of Python

attn.register_attention()  # the line

if len(sys.argv) > 2:
    model = AutoModelForCausalLM.from_pretrained(sys.argv[2], attn_implementation="attn:hip", dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(sys.argv[2])(text[:20000], return_tensors="pt").input_ids[:, :2048]
else:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
                         num_attention_heads=4, num_key_value_heads=2, eos_token_id=None)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="attn:hip")
    ids = torch.tensor([list(text[:2048].encode("utf-8"))[:2048]])
model.eval()


@torch.no_grad()
def loss(**params):
    """Mean loss per token with these parameters."""
    with attn.attention_parameters(**params):
        return float(model(ids, labels=ids, use_cache=False).loss)


everything = range(model.config.num_hidden_layers)
print(f"{ids.shape[1]} tokens, loss with dense attention {loss(dense_layers=everything):.4f}")
for mask_k in (64, 256, 512, 2048):
    print(f"hip, {mask_k:4} keys: {loss(mask_k=mask_k):.4f}", end="; ")
    print(f"the first two layers dense: {loss(mask_k=mask_k, dense_layers=(0, 1)):.4f}")

# or kept in the configuration, and with it in a saved model
model.config.attn_parameters = {"mask_k": 256, "dense_layers": [0, 1], "mask_refresh": 8}
with attn.attention_log() as ran:
    longer = model.generate(ids[:, :1024], attention_mask=torch.ones_like(ids[:, :1024]), max_new_tokens=24,
                            do_sample=False)  # fmt: skip
for (layer, operator, phase, formulation, why), calls in Counter(
    (x.layer, x.operator, x.phase, x.formulation, x.why) for x in ran if x.layer in (0, 2)
).items():
    print(f"layer {layer}: {calls:2} x {operator} in {phase}: {formulation}{why and f' ({why})'}")
(out / "ran.json").write_text(json.dumps([asdict(x) for x in ran], indent=1), encoding="utf-8")
print(f"{longer.shape[1] - 1024} tokens generated; what ran in every layer: {out / 'ran.json'}")
