#!/usr/bin/env bash
# A detector of drawn shapes in a domain that it was not trained for, from five boxes of each class: plain fine-tuning
# against prototypes of objects and background. Needs pip install 'attn[detect]' (AP by pycocotools). A minute on two
# CPU cores; without --shots and --modules it is all comparisons.
# Usage: examples/fewshot.sh [OUTPUT_DIRECTORY]
set -euo pipefail
out=${1:-fewshot-example}

attn train fewshot-detect --shots 5 --repeats 1 --modules plain,ppr+ncm -o "$out"

# The table is in the model's card; masks.png shows which cells are refined, prototypes.npz holds the prototypes.
tail -n 6 "$out/model.md"
