#!/usr/bin/env bash
# The pytest battery on a CUDA machine: torch and a library built elsewhere, no cargo, nothing installed.
#
# Runs what is marked `gpu` (the same tests, on the GPU), then a part of it under compute-sanitizer's memcheck and
# racecheck, before it small calls (tests/race.py). PYTHON names the interpreter that has torch; ROBOCACHE_LIBRARY another
# place for the library; ROBOCACHE_SANITIZER_CASES what part of the random cases the sanitizer gets (1: all of them, which
# takes an hour); LOGS a folder for the whole output of each step.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
logs=${LOGS:-$(mktemp -d)}
export PYTHONPATH="$PWD/torch_ops${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
failed=()

# Runs a step whatever came before it, so that one failure hides no other; says how long it took.
step() {
  local name=$1 begin=$SECONDS
  shift
  if "$@" > "$logs/$name.txt" 2>&1; then
    echo "test-gpu: $name passed in $((SECONDS - begin)) s: $(tail -n 1 "$logs/$name.txt")"
  else
    echo "test-gpu: $name FAILED after $((SECONDS - begin)) s:"
    tail -n 60 "$logs/$name.txt"
    failed+=("$name")
  fi
}

battery=("$python" -m pytest -q -m gpu -p no:cacheprovider --tb=short -rs --timeout=600)

"$python" -c 'import torch, sys; sys.exit(None if torch.cuda.is_available() else "test-gpu: no CUDA device on this machine")' || exit 1
"$python" -m robocache doctor || exit 1
# A compiler's crash must not hide the rest: what compiles code of its own runs in a process of its own. The command
# line's tests need readers that such a machine may lack, and none of them runs on the GPU.
step battery "${battery[@]}" tests/torch --ignore-glob='*test_align*' --ignore-glob='*_cli.py' \
  --ignore-glob='*_readers.py' --ignore=tests/torch/test_docs.py --ignore-glob='*_compile.py' --ignore-glob='*_export.py'
step compile "${battery[@]}" tests/torch/test_compile.py tests/torch/test_voxelize_compile.py
step export "${battery[@]}" tests/torch/test_export.py tests/torch/test_voxelize_export.py

if command -v compute-sanitizer > /dev/null; then
  # Small random cases over every dtype, mode and layout; torch's caching allocator would hide an overrun.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1 ROBOCACHE_CASES=${ROBOCACHE_SANITIZER_CASES:-0.1}
  for tool in memcheck racecheck; do
    check=(compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all --kernel-name-exclude kns=at::)
    step "$tool-small" "${check[@]}" "$python" tests/race.py
    step "$tool" "${check[@]}" "${battery[@]}" tests/torch/test_threads.py
    # A thousand repeats and large clouds would take it hours, and run no other code.
    step "$tool-voxelize" "${check[@]}" "${battery[@]}" tests/torch/test_voxelize_threads.py \
      -k 'not thousand and not large and not 100_000 and not order_of_points'
  done
else
  echo "test-gpu: compute-sanitizer is not on the path, so memory and races were NOT checked" >&2
  failed+=(sanitizer)
fi

if ((${#failed[@]})); then
  echo "test-gpu: failed: ${failed[*]} (whole output in $logs)" >&2
  exit 1
fi
