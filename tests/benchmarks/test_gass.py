"""GASS on CLIP's text tower: the end row alone against the printed steps (one backward pass per layer).

pytest tests/benchmarks/test_gass.py --benchmark-only
"""

import pytest
import torch

from attn.core.retrieve.gadms.clip import CLIP, CLIPArchitecture, at, end_position
from attn.core.retrieve.gadms.gass import gass, reference

CAPTIONS, WORDS = 4, 30


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(0)
    clip = CLIP(CLIPArchitecture(vision_layers=1)).eval()
    for name, parameter in clip.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3 * parameter.shape[-1] ** -0.5)
        elif name.endswith("in_proj_bias"):
            torch.nn.init.zeros_(parameter)
    ids = torch.zeros(CAPTIONS, 77, dtype=torch.int64)
    ids[:, 0], ids[:, 1 : WORDS + 1], ids[:, WORDS + 1] = 49406, torch.randint(1, 49405, (CAPTIONS, WORDS)), 49407
    return clip, ids, torch.randn(CAPTIONS, 512)


@pytest.mark.parametrize("which", ["text tower without gradient", "end row", "printed"])
@pytest.mark.benchmark(group="gass")
def test_gass(benchmark, inputs, which):
    clip, ids, images = inputs
    if which == "end row":
        scores = benchmark(gass, clip, ids, images)
        assert float((scores - reference(clip, ids, images).scores).abs().max()) < 2e-4
    elif which == "printed":
        benchmark(lambda: reference(clip, ids, images).scores)
    else:
        with torch.no_grad():
            benchmark(lambda: at(clip.text_tokens(ids), end_position(ids)))
