#!/usr/bin/env bash
# Every part of a run on a GPU, checked and measured, in less than 8 minutes: tests/gpu/run.sh OUT [CHECKPOINT ...]
# OUT gets gpu.md, the table of docs/gpu.md, gpu.json and the logs. PYTHON names another interpreter than .venv's;
# RLCAP_GPU_DRY_RUN=1 tries the script itself where there is no GPU.
set -euo pipefail
out=$(mkdir -p "${1:?usage: tests/gpu/run.sh OUT [CHECKPOINT ...]}" && cd "$1" && pwd)
shift
here=$PWD
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
gpu=$("$python" -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpu" = 0 ] && [ -z "${RLCAP_GPU_DRY_RUN:-}" ]; then
  echo "skipped: PyTorch sees no GPU here, so nothing was checked and nothing measured"
  exit 0
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
checkpoints=()
for each in "$@"; do checkpoints+=("$(cd "$here" && realpath "$each")"); done

echo "== actor, learner, shard, weights; the whole job"
"$python" -m pytest tests/gpu -q 2>&1 | tee "$out/tests.log"
echo "== speed"
"$python" tests/gpu/measure.py "$out" ${RLCAP_GPU_DRY_RUN:+--dry-run} "${checkpoints[@]}" 2>&1 | tee "$out/measure.log"
echo "== done after $SECONDS s"
