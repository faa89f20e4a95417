#!/usr/bin/env bash
# Checks everything that needs a GPU, in one command of at most nine minutes, without network:
#
#     bash benchmarks/gpu_check.sh
#
# It builds the kernels and runs the CUDA tests, every benchmark and compute-sanitizer. It needs a CUDA
# build of torch, nvcc, pytest, setuptools and ninja. Each part has a time limit. If a part fails, the
# summary names it and the next part runs.
#
#     PARTS="build training" DATA=data/mine bash benchmarks/gpu_check.sh
#
# times training steps of three architectures, then trains one of them. This needs deepspeed.
#
#   OUT      folder of log.txt, results.jsonl and summary.txt   (default out/gpu_check)
#   PYTHON   Python interpreter                                 (default python3)
#   PARTS    parts to run              (default "machine build tests benchmarks sanitizers")
#   DEVICE   cpu runs the benchmarks without a GPU              (default cuda)
#   DATA     dataset of the training part                       (default data/procedural, built if absent)
#   STEPS    steps of that training                             (default 1000)
set -uo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-out/gpu_check}
PYTHON=${PYTHON:-python3}
PARTS=${PARTS:-machine build tests benchmarks sanitizers}
DEVICE=${DEVICE:-cuda}
DATA=${DATA:-data/procedural}
STEPS=${STEPS:-1000}
LAST_SECOND=520 # of the script; a command that still runs then is stopped

export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OCCVAE_REQUIRE_CUDA=1
mkdir -p "$OUT"
rm -f "$OUT"/{log,summary}.txt "$OUT/results.jsonl"
exec > >(tee "$OUT/log.txt") 2>&1
failed=0

# run NAME SECONDS COMMAND...: runs the command until its limit or the end of the script.
run() {
  local name=$1 limit=$2 started=$SECONDS status
  shift 2
  ((limit > LAST_SECOND - SECONDS)) && limit=$((LAST_SECOND - SECONDS))
  if ((limit < 5)); then
    report "$name" "skipped: no time left" 0
    return
  fi
  printf '\n=== %s (%d s at most, at %d s)\n' "$name" "$limit" "$SECONDS"
  timeout --kill-after=5 "$limit" "$@"
  status=$?
  case $status in
    0) report "$name" ok $((SECONDS - started)) ;;
    124 | 137) report "$name" "FAILED: out of time" $((SECONDS - started)) ;;
    *) report "$name" "FAILED: exit status $status" $((SECONDS - started)) ;;
  esac
}

report() {
  printf '%-28s %4d s  %s\n' "$1" "$3" "$2" | tee -a "$OUT/summary.txt"
  [[ $2 == ok ]] || failed=1
}

machine() {
  run machine 30 bash -c '
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    nvcc --version | tail -2
    "$0" -c "
import torch
print(\"torch\", torch.__version__, \"CUDA\", torch.version.cuda)
assert torch.cuda.is_available(), \"torch sees no GPU\"
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())"' "$PYTHON"
}

# Builds for the present GPU only. On Hopper that is 9.0a, which the wgmma kernel needs.
build() {
  local architecture
  architecture=$("$PYTHON" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(f"{major}.{minor}" + "a" * (major == 9))' 2>/dev/null) || architecture=9.0a
  run build 300 env OCCVAE_CUDA=1 TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$architecture}" \
    "$PYTHON" setup.py build_ext --inplace
  run "occvae info" 60 "$PYTHON" -c 'from occvae.cli import info; print(info.describe())'
}

tests() {
  run "CUDA tests" 150 "$PYTHON" -m pytest tests -m needs_cuda -q --tb=short --maxfail=40 -p no:cacheprovider \
    --continue-on-collection-errors
}

benchmarks() {
  local file quick
  for file in benchmarks/*_bench.py; do
    quick=()
    grep -q -e '"--quick"' "$file" && quick=(--quick)
    # With fewer points the launches of a GPU take longer than its kernels.
    [[ $file == *query_bench.py && $DEVICE == cuda ]] && quick+=(--points 2000000)
    run "$(basename "$file" .py)" 100 "$PYTHON" "$file" --device "$DEVICE" "${quick[@]}" \
      --json "$OUT/results.jsonl"
  done
  run "mise_bench 2048" 60 "$PYTHON" benchmarks/mise_bench.py --device "$DEVICE" --only scaling \
    --scaling 2048 --scaling-field sphere --json "$OUT/results.jsonl"
}

# PyTorch's memory cache is off, because it would hide accesses past the end of a tensor.
sanitizers() {
  local tool
  for tool in memcheck racecheck initcheck synccheck; do
    run "compute-sanitizer $tool" 45 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer \
      --tool "$tool" --kernel-name kns=occvae --error-exitcode 9 --print-limit 10 \
      "$PYTHON" benchmarks/cuda_smoke.py --device "$DEVICE"
  done
}

# Trains with the presets of the device.
training() {
  local arch
  [[ -e $DATA/dataset.json ]] ||
    run "build data" 100 "$PYTHON" -m occvae data build procedural "$DATA"
  for arch in onet pix2vox-vae vitocc; do
    run "train_bench $arch" 70 "$PYTHON" benchmarks/train_bench.py --device "$DEVICE" --quick \
      --arch "$arch" --data "$DATA" --json "$OUT/results.jsonl"
  done
  # A training that is stopped at its limit saves a checkpoint first.
  run "training, $STEPS steps" $((LAST_SECOND - SECONDS - 80)) "$PYTHON" launchers/train.py \
    --arch vitocc --data "$DATA" --out "$OUT/vitocc" "optim.steps=$STEPS" \
    "optim.warmup_steps=$((STEPS / 20))" "validate_every=$(((STEPS + 3) / 4))"
  run evaluation 60 "$PYTHON" launchers/evaluate.py --model "$OUT/vitocc" --data "$DATA" --no-meshes
  run "page of 16 shapes" 60 "$PYTHON" launchers/evaluate.py --model "$OUT/vitocc" --data "$DATA" \
    --shapes 16 --json "$OUT/page.json" --html "$OUT/page.html"
}

for part in $PARTS; do
  "$part"
done

printf '\n=== summary (%d s)\n' "$SECONDS"
cat "$OUT/summary.txt"
exit $failed
