#!/usr/bin/env bash
# What the convolution filters of a model are like, and which start values train fastest. Under a minute on two CPU cores,
# nothing is downloaded. Usage: examples/filters.sh [OUTPUT_DIRECTORY]
set -euo pipefail
out=${1:-filters-example}

# 1. The small CNN that ships, and what its filters do on a photo: table, figure, one page.
attn probe filters shapes-cnn --data example:photo --object 18 -o "$out" --report "$out/filters.html" --overwrite

# 2. Three kinds of start values, one seed, a short race (the default is nine, three seeds, 200 steps).
attn probe initialisers --init torch-default,he,lsuv --seeds 1 --steps 60 -o "$out" --overwrite
