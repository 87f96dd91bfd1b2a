"""The library: segment a fundus photo, measure its vessels at several thresholds. Half a minute on two CPU cores.

Usage: python examples/segment.py [OUTPUT_DIRECTORY]
"""

import sys
from pathlib import Path

import torch

from attn.core.io import expand_inputs
from attn.core.io.photo.read import read_photo
from attn.core.segment.fov import find_fov
from attn.core.segment.models import load
from attn.core.segment.options import SegmentOptions
from attn.core.segment.run import run
from attn.core.segment.score.measure import measure

out = Path(sys.argv[1] if len(sys.argv) > 1 else "segment-example")

# a photo that ships with scikit-image; any file can be read like this
(source,) = expand_inputs(["example:retina"])
photo = read_photo(source.path)
fov = find_fov(photo.pixels)
print(f"{photo.size[1]} x {photo.size[0]} pixels, field of view {fov.diameter:.0f} px across")

# a model is called with pixels and a field of view and returns probabilities of the photo's size
for name in ("fsgnet", "sato"):
    segmenter = load(name, device=torch.device("cpu"))
    prob = segmenter(photo.pixels, fov).prob
    for threshold in (segmenter.threshold, 0.8):
        values = measure(prob >= threshold, fov.mask)
        print(
            f"{name:7s} threshold {threshold:.2f}: density {values['vessel_density']:.3f}, "
            f"calibre {values['mean_calibre_px']:.1f} px, tortuosity {values['tortuosity']:.3f}"
        )

# the command itself, with all its files and its report as a value
report = run(["example:retina"], f"{out}/", SegmentOptions(model="sato", measure=True))
for item in report.items:
    print(item.status, item.output, *item.files.values())
