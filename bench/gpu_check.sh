#!/usr/bin/env bash
# Builds, tests, sanitizes and benchmarks on a machine with a GPU, without a network.
#
#   bench/gpu_check.sh OUT_DIR [build|test|headline|steps|sanitize|bench|all] [--no-build]
#
#   build     the kernels, for the GPU that is here
#   test      the tests that need a GPU, then those of the ops on the CPU
#   headline  the bench's headline cases, half a second each
#   steps     whole training steps
#   sanitize  racecheck, memcheck and initcheck of every CUDA kernel on small shapes
#   bench     every case and provider of all families, or of those that OPS names ("hog tokens")
#   all       build, tests on the GPU, headline, steps, sanitize: in this order, as time lasts
#
# Every step has a log in OUT_DIR and a time limit, and all together end in GPU_CHECK_SECONDS (580).
# A step that fails does not stop the others. The summary at the end is also in OUT_DIR/summary.txt:
# what ran, how it ended, how long it took; the exit status is 1 if a step failed. Without a GPU it
# does what it can and says what it left out. PYTHON names the interpreter (python3).
set -uo pipefail

usage() {
  echo "usage: $0 OUT_DIR [build|test|headline|steps|sanitize|bench|all] [--no-build]" >&2
  exit 2
}

[[ $# -ge 1 && $1 != -* ]] || usage
mkdir -p "$1" || exit 2
OUT=$(cd "$1" && pwd)
WHAT=all
BUILD=1
for word in "${@:2}"; do
  case $word in
    build | test | headline | steps | sanitize | bench | all) WHAT=$word ;;
    --no-build) BUILD=0 ;;
    *) echo "got $word; accepted are those of the first line below" >&2; usage ;;
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

words_of() { # a command without its interpreter
  [[ $1 == "$PYTHON" ]] && shift
  echo "$*"
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
    note "$name" ok "$((SECONDS - start)) s: $(words_of "$@")"
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

doctor() {
  run_step doctor 60 "$PYTHON" -c 'import ssl_fast, torch
print(torch.__version__, torch.version.cuda)
devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
for op in ssl_fast._dispatch.OPS:
    for device in devices:
        print(ssl_fast.explain(op, device=device))'
}

test_gpu() {
  local files
  doctor
  if ((!GPU)); then
    note test-gpu skipped "$NO_GPU"
    return
  fi
  # Most of the time goes into compiling Triton's kernels, one for each kind of call.
  mapfile -t files < <(grep -rl "mark.gpu" tests --include="test_*.py")
  run_step test-gpu 240 "$PYTHON" -m pytest -q "${PARALLEL[@]}" -m gpu "${files[@]}"
}

test_ops() {
  if ((GPU)); then
    run_step test-ops 120 "$PYTHON" -m pytest -q "${PARALLEL[@]}" -m "not gpu" tests/ops
  else
    run_step test-cpu 240 "$PYTHON" -m pytest -q -x -m "not gpu" tests/ops -k "compiled or reference"
  fi
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
  for tool in racecheck memcheck initcheck; do
    run_step "sanitize-$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 99 \
      "$PYTHON" bench/sanitize_shapes.py
  done
}

warm() { # all families at once, for what torch.compile and Triton compile: no number of it counts
  local job='"device": "cuda", "allocator": "default", "seconds": 0, "providers": [], "selections"'
  run_step "warm-$1" 120 bash -c 'job=$1; shift
    for family; do "$PYTHON" -m ssl_fast.bench.worker "{\"families\": [\"$family\"], $job}" & done
    wait' warm "$job: [\"$1\"]" "${KNOWN[@]}"
}

headline() {
  if ((GPU)); then
    warm headline
    run_step bench-headline 300 "$PYTHON" bench/run.py --cases headline --device cuda \
      --seconds 0.5 --out "$OUT/headline" --csv "$OUT/headline.csv"
  else
    note bench-headline-cuda skipped "$NO_GPU"
    run_step bench-headline-cpu 300 "$PYTHON" bench/run.py --cases headline --small \
      --seconds 0.05 --allocator default --providers "reference eager,as served"
  fi
}

steps() {
  if ((GPU)); then
    run_step bench-steps 240 "$PYTHON" bench/run.py steps --device cuda --seconds 2 \
      --out "$OUT/steps" --csv "$OUT/steps.csv"
  else
    note bench-steps-cuda skipped "$NO_GPU"
    run_step bench-steps-cpu 200 "$PYTHON" bench/run.py steps --small --seconds 0
  fi
}

bench() {
  local family
  for family in ${OPS:-"${KNOWN[@]}"}; do
    if ((GPU)); then
      run_step "bench-$family" 300 "$PYTHON" bench/run.py --op "$family" --cases all \
        --device cuda --seconds 0.5 --out "$OUT/$family" --csv "$OUT/$family.csv"
    else
      note "bench-$family-cuda" skipped "$NO_GPU"
      run_step "bench-$family-cpu" 300 "$PYTHON" bench/run.py --op "$family" --cases all --small \
        --seconds 0.05 --allocator default --providers "reference eager,compiled"
    fi
  done
}

KNOWN=()
for file in ssl_fast/bench/cases/[a-z]*.py; do
  KNOWN+=("$(basename "$file" .py)")
done
export PYTHON
find_gpu
PARALLEL=()
"$PYTHON" -c 'import xdist' 2>/dev/null && ((GPU)) && PARALLEL=(-n 8)
if ((GPU)); then
  nvidia-smi >"$OUT/nvidia-smi.log" 2>&1
  note gpu found "$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)"
else
  note gpu missing "$NO_GPU"
fi
case $WHAT in
  build) build ;;
  test)
    test_gpu
    test_ops
    ;;
  headline) headline ;;
  steps) steps ;;
  sanitize) sanitize ;;
  bench) bench ;;
  all) # what is worth most comes first
    build
    test_gpu
    headline
    steps
    sanitize
    note test-ops "left out" "run: $0 $OUT test"
    note bench-families "left out" "run: $0 $OUT bench"
    ;;
esac

echo
echo "== summary ($OUT/summary.txt)"
cat "$SUMMARY"
exit "$FAILED"
