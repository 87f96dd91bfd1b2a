#!/usr/bin/env bash
# What only a GPU can say, in under eight minutes: check.sh [--rehearse] [FOLDER]
#
# Kernel tests on the GPU, every operator at 128k tokens against PyTorch's own attention and the official kernels that
# install, and times of the tiles that the kernels' tables name. Writes JSON and Markdown into FOLDER (gpu-check).
# Wants one GPU and a Python with torch (PYTHON=/path/to/python); all else is installed into .gpu-check of the checkout.
# A step that fails or outruns its time does not stop the next; the exit code is 1 then.
# --rehearse: the same steps on the CPU, by Triton's interpreter, at toy sizes, with the Python at hand and no install.
set -uo pipefail
cd "$(dirname "$0")/../.."
rehearse=""
[ "${1:-}" = --rehearse ] && { rehearse=1; shift; }
out="$(realpath -m "${1:-gpu-check}")"
mkdir -p "$out"
python="${PYTHON:-python3}"
export TRITON_DEFAULT_FP_FUSION=1 PYTHONPATH="$PWD/.src${PYTHONPATH:+:$PYTHONPATH}" PIP_DISABLE_PIP_VERSION_CHECK=1
failed=""
started=$SECONDS

step() { # step NAME SECONDS COMMAND...: its output into NAME.log, its verdict into steps.md
  local name="$1" limit="$2" code=0 begun=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  echo "| $name | $code | $((SECONDS - begun)) |" >>"$out/steps.md"
  echo "$name: exit code $code, $((SECONDS - begun)) s"
  [ "$code" = 0 ] || { failed="$failed $name"; tail -n 5 "$out/$name.log"; }
  return "$code"
}

printf '| step | exit code | s |\n| --- | --- | --- |\n' >"$out/steps.md"
if [ -n "$rehearse" ]; then
  export TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES=
  device=cpu
  sizes=(dense lightning --seq 64 --dim 16 --rows 16 --repeat 1 --no-memory --budget 30)
  tests=(tests/kernels/test_lightning.py tests/kernels/test_blocks.py -k "launch")
else
  "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
    || { echo "no GPU that this Python's torch can use (PYTHON=/path/to/python; --rehearse needs none)"; exit 2; }
  if ! "$python" -c 'import attn.cli.main, pytest, hypothesis, numba, pytest_timeout, pytest_benchmark' 2>/dev/null; then
    step install 150 bash -c "'$python' -m venv --system-site-packages .gpu-check && .gpu-check/bin/pip install -q \
      typer rich tqdm numba safetensors pytest hypothesis pytest-timeout pytest-benchmark filelock jinja2 pillow psutil \
      inline-snapshot dask distributed pydicom tifffile imagecodecs scikit-image PyWavelets matplotlib" || exit 1
    python="$PWD/.gpu-check/bin/python"
  fi
  "$python" -c 'import fla' 2>/dev/null \
    || step official 40 "$python" -m pip install -q --no-deps flash-linear-attention fla-core einops || true
  device=cuda
  sizes=(--seq 128k --dtype bf16 --budget 90 --no-memory)
  "$python" -c 'import fla' 2>/dev/null && sizes+=(--peers)
  tests=(tests/kernels)
fi
attn=("$python" -m attn)
step tests 150 "$python" -m pytest -q -p no:cacheprovider -m gpu "${tests[@]}"
step bench 120 "${attn[@]}" bench "${sizes[@]}" --device "$device" --report "$out/bench.json"
step tune 90 "$python" tests/gpu/tune.py --device "$device" --seconds 60 --out "$out/tune" ${rehearse:+--toy}
{
  echo "# GPU check${rehearse:+: rehearsal on the CPU, no figure of a GPU}"
  echo
  cat "$out/steps.md"
  echo
  "$python" tests/gpu/tables.py "$out"
} >"$out/check.md"
echo "$((SECONDS - started)) s in all; $out/check.md, bench.json, tune.json"
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
