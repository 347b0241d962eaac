#!/usr/bin/env bash
# The pytest battery on a CUDA machine: torch and a library built elsewhere, no cargo, nothing installed.
#
# Runs what is marked `gpu` (the same tests, on the GPU), then a part of it under compute-sanitizer's memcheck and
# racecheck. PYTHON names the interpreter that has torch; ROBOCACHE_LIBRARY another place for the library.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/torch_ops${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONDONTWRITEBYTECODE=1

"$python" -c 'import torch, sys; sys.exit(None if torch.cuda.is_available() else "test-gpu: no CUDA device on this machine")'
"$python" -m robocache doctor
# The command line's tests need readers that such a machine may lack, and none of them runs on the GPU.
"$python" -m pytest -q -m gpu -p no:cacheprovider --ignore-glob='*test_align*' --ignore=tests/torch/test_docs.py tests/torch

if ! command -v compute-sanitizer > /dev/null; then
  echo "test-gpu: compute-sanitizer is not on the path, so memory and races were NOT checked" >&2
  exit 1
fi
for tool in memcheck racecheck; do
  # Small random cases over every dtype, mode and layout; torch's caching allocator would hide an overrun.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 ROBOCACHE_CASES=${ROBOCACHE_SANITIZER_CASES:-200} \
    compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all --kernel-name-exclude kns=at:: \
    "$python" -m pytest -q -m gpu -p no:cacheprovider tests/torch/test_threads.py
done
