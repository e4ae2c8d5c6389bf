#!/usr/bin/env bash
# Builds, tests, sanitizes and benchmarks on a machine with a GPU, without a network.
#
#   bench/gpu_check.sh OUT_DIR [build|test|sanitize|bench|all] [--no-build]
#
# Every step has a log in OUT_DIR and a time limit, and all together end in GPU_CHECK_SECONDS (580).
# A step that fails does not stop the others. The summary at the end is also in OUT_DIR/summary.txt;
# the exit status is 1 if a step failed. Without a GPU it does what it can and says what it left out.
# PYTHON names the interpreter (python3).
set -uo pipefail

usage() {
  echo "usage: $0 OUT_DIR [build|test|sanitize|bench|all] [--no-build]" >&2
  exit 2
}

[[ $# -ge 1 && $1 != -* ]] || usage
mkdir -p "$1" || exit 2
OUT=$(cd "$1" && pwd)
WHAT=all
BUILD=1
for word in "${@:2}"; do
  case $word in
    build | test | sanitize | bench | all) WHAT=$word ;;
    --no-build) BUILD=0 ;;
    *) echo "got $word; accepted are build, test, sanitize, bench, all, --no-build" >&2; usage ;;
  esac
done

cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
END=$((SECONDS + ${GPU_CHECK_SECONDS:-580}))
SUMMARY=$OUT/summary.txt
FAILED=0
: >"$SUMMARY"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

note() { # step, result, remark
  printf '%-24s %-8s %s\n' "$1" "$2" "$3" | tee -a "$SUMMARY"
}

run_step() { # name, limit in seconds, command...
  local name=$1 limit=$2 left=$((END - SECONDS)) start=$SECONDS status
  shift 2
  if ((left < 10)); then
    note "$name" FAILED "not started: no time left"
    FAILED=1
    return 1
  fi
  ((limit > left)) && limit=$left
  echo "== $name (at most $limit s): $*"
  timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1
  status=$?
  if ((status == 0)); then
    note "$name" ok "$((SECONDS - start)) s"
    return 0
  fi
  FAILED=1
  tail -n 20 "$OUT/$name.log"
  if ((status == 124 || status == 137)); then
    note "$name" FAILED "ran past $limit s, see $name.log"
  else
    note "$name" FAILED "status $status after $((SECONDS - start)) s, see $name.log"
  fi
  return 1
}

find_gpu() { # sets GPU to 1, or to 0 with the reason in NO_GPU
  GPU=0
  if ! command -v nvidia-smi >/dev/null; then
    NO_GPU="no nvidia-smi on this machine"
  elif ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    NO_GPU="torch sees no CUDA device"
  else
    GPU=1
  fi
}

missing_build_tools() {
  command -v cmake >/dev/null || echo cmake
  command -v ninja >/dev/null || echo ninja
  "$PYTHON" - <<'PY'
import importlib.util
for name in ("pip", "setuptools", "pybind11"):
    if importlib.util.find_spec(name) is None:
        print(name)
PY
}

build() {
  local missing
  if ((!BUILD)); then
    note build skipped "--no-build: whatever is built already is used"
    return
  fi
  missing=$(missing_build_tools | paste -sd ' ')
  if [[ -n $missing ]]; then
    note build skipped "not installed: $missing"
    return
  fi
  if ((GPU)); then
    TORCH_CUDA_ARCH_LIST=$("$PYTHON" -c 'import torch
print("{}.{}".format(*torch.cuda.get_device_capability()))')
    export TORCH_CUDA_ARCH_LIST
    command -v nvcc >/dev/null || [[ -n ${CUDACXX:-} ]] ||
      note nvcc missing "the CUDA kernels are not built: set CUDACXX or PATH"
  fi
  run_step build 300 "$PYTHON" -m pip install --no-build-isolation --no-deps -e .
}

tests() {
  run_step doctor 60 "$PYTHON" -c 'import ssl_fast, torch
print(torch.__version__, torch.version.cuda)
devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
for op in ssl_fast._dispatch.OPS:
    for device in devices:
        print(ssl_fast.explain(op, device=device))'
  if ((!GPU)); then
    note test-gpu skipped "$NO_GPU"
    run_step test-cpu 240 "$PYTHON" -m pytest -q -x -m "not gpu" tests/ops -k "compiled or reference"
    return
  fi
  # Most of the time goes into compiling Triton's kernels, one for each kind of call.
  local parallel=()
  "$PYTHON" -c 'import xdist' 2>/dev/null && parallel=(-n 8)
  run_step test-gpu 240 "$PYTHON" -m pytest -q "${parallel[@]}" -m gpu tests
  run_step test-ops 120 "$PYTHON" -m pytest -q "${parallel[@]}" -m "not gpu" tests/ops
}

sanitize() {
  local tool
  if ((!GPU)); then
    note sanitize skipped "$NO_GPU"
    return
  fi
  if ! command -v compute-sanitizer >/dev/null; then
    note sanitize skipped "compute-sanitizer is not on PATH: it comes with the CUDA toolkit"
    run_step shapes 60 "$PYTHON" bench/sanitize_shapes.py
    return
  fi
  for tool in memcheck racecheck initcheck; do
    run_step "sanitize-$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 99 \
      "$PYTHON" bench/sanitize_shapes.py
  done
}

bench() {
  local file family
  for file in ssl_fast/bench/cases/[a-z]*.py; do
    family=$(basename "$file" .py)
    if ((GPU)); then
      run_step "bench-$family" 300 "$PYTHON" bench/run.py --op "$family" --device cuda \
        --seconds 1 --csv "$OUT/$family.csv"
    else
      note "bench-$family-cuda" skipped "$NO_GPU"
      run_step "bench-$family-cpu" 300 "$PYTHON" bench/run.py --op "$family" --small \
        --cases all --seconds 0.2 --providers "reference eager,compiled"
    fi
  done
  if ((GPU)); then
    run_step bench-step 200 "$PYTHON" bench/step.py --device cuda --batch 128 --precision bf16 \
      --seconds 20 --csv "$OUT/step.csv"
  else
    run_step bench-step-cpu 200 "$PYTHON" bench/step.py --small --batch 2 --seconds 1
  fi
}

find_gpu
((GPU)) && nvidia-smi >"$OUT/nvidia-smi.log" 2>&1
case $WHAT in
  build) build ;;
  test) tests ;;
  sanitize) sanitize ;;
  bench) bench ;;
  all)
    build
    tests
    sanitize
    bench
    ;;
esac

echo
echo "== summary ($OUT/summary.txt)"
cat "$SUMMARY"
exit "$FAILED"
