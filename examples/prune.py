"""Pruning from Python: a context manager around any call of the model. Ten seconds on two CPU cores."""

import torch

import attn
from attn.core.models.load import load_model
from attn.core.models.pictures import ColourPicture
from attn.core.prune.shapes.sets import evaluation_set
from attn.core.prune.vlm.ask import answer, prepare

loaded = load_model("shapes", "vision-language")  # or a folder of LLaVA, Qwen2-VL, SmolVLM, InternVL
scenes = evaluation_set("colour", 8, seed=2)
pixels = torch.from_numpy(scenes.pictures[0]).permute(2, 0, 1).float().div(255).numpy()
prepared = prepare(loaded, [ColourPicture(pixels, (96, 96))], scenes.question(0))
print(scenes.question(0), "?", answer(loaded, prepared, max_new_tokens=1).text)

for method in ("visionzip", "fastv", "random"):
    with attn.prune(loaded.model, method, keep=0.25) as trace:
        text = answer(loaded, prepared, max_new_tokens=1).text  # model.generate(**inputs) works as well
    seen = [tokens for (tokens,) in trace.last.visual]
    print(f"{method}: {text}; visual tokens of each layer {seen}, {trace.last.retention():.0%} of all")
