#!/usr/bin/env bash
# How widely a vision transformer attends on a photo and on a CT slice, and what stays inside an object: the model that
# comes with attn. Under two minutes on two CPU cores; nothing is downloaded. Usage: examples/distance.sh [OUTPUT]
set -euo pipefail
out=${1:-distance-example}
mkdir -p "$out"

# 1. One box, in pixels of the photo (COCO: x, y, width, height).
cat > "$out/boxes.json" <<'JSON'
{"images": [{"id": 1, "file_name": "astronaut.png"}], "annotations": [{"image_id": 1, "bbox": [80, 0, 300, 400]}]}
JSON

# 2. Photo against CT: a figure each, and domains.distance.png. An interval takes five pictures of each domain.
attn probe distance example:photo --target example:ct --model shapes-vit --boxes "$out/boxes.json" --checked 1 \
    -o "$out" --report "$out/report.html" --overwrite

# 3. The figure again, from what lies beside it: no model, no picture.
attn probe redraw "$out/domains.distance.json" --overwrite
