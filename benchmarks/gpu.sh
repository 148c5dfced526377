#!/usr/bin/env bash
# Measures everything that wants a GPU, in one command of under 8 minutes:
#
#   bash benchmarks/gpu.sh [OUTPUT]                            needs jax[cuda] and what requirements_flax.txt has
#   EXAMPLES=diffusers/examples bash benchmarks/gpu.sh         beside the PyTorch script, with torch and accelerate
#
# Attention against float32 and in time; SD 1.5 at 512 pixels with batch 1 and 16, with and without gradient
# checkpointing, and with deterministic kernels; SD 2.1 at 768 pixels; then diffusers' PyTorch script in bf16 on
# the same shapes.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-build/gpu}
python=${PYTHON:-python3}
mkdir -p "$out"

measure() { # name, seconds, command...
  local name=$1 limit=$2
  shift 2
  echo "== $*"
  timeout "$limit" "$python" "$@" 2>"$out/$name.err" | tee "$out/$name.txt"
  local code=${PIPESTATUS[0]}
  [ "$code" = 0 ] || echo "failed with $code: $(tail -n 1 "$out/$name.err")"
}

step=(benchmarks/step.py --dtype bfloat16)
measure attention-sd15 60 benchmarks/attention.py --preset sd15 --dtype bfloat16 --batch 4
measure attention-sd21 60 benchmarks/attention.py --preset sd21 --dtype bfloat16 --batch 1
# 3,000 steps: calls of 500 steps at most.
measure sd15-batch1 110 "${step[@]}" --preset sd15 --batch 1 --calls 6 --seconds 60 --json "$out/sd15-batch1.json"
measure sd15-batch16 90 "${step[@]}" --preset sd15 --batch 16 --json "$out/sd15-batch16.json"
measure sd15-checkpointed 60 "${step[@]}" --preset sd15 --batch 1 --gradient_checkpointing --calls 3 \
  --json "$out/sd15-checkpointed.json"
XLA_FLAGS=--xla_gpu_deterministic_ops=true measure sd15-deterministic 60 "${step[@]}" --preset sd15 --batch 1 --calls 3 \
  --json "$out/sd15-deterministic.json"
measure sd21 60 "${step[@]}" --preset sd21 --batch 1 --calls 3 --json "$out/sd21.json"
if [ -n "${EXAMPLES:-}" ]; then
  measure peers 200 benchmarks/peers.py --examples "$EXAMPLES" --preset sd15 --batch 1 --segment 20 --turns 3 \
    --mixed_precision bf16 --json "$out/peers.json"
fi
