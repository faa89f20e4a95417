#!/usr/bin/env bash
# Checks and measures everything that needs a GPU, in ten minutes, without network. Two commands:
#
#     bash benchmarks/gpu_check.sh query    # at most 150 s: the fused occupancy queries
#     bash benchmarks/gpu_check.sh rest     # at most 450 s: everything else, then training
#
# Without an argument it runs both. It needs a CUDA build of torch and pytest. The kernels that lie
# in occvae/ are used if they load. Otherwise they are built, which needs nvcc, setuptools and ninja.
# A kernel is compared with the CPU before it is timed.
#
# Each part is a process with a time limit. If a part fails, hangs or cannot run, the summary says
# so, and the next part runs. The kernel with wgmma always has a process of its own, because a kernel
# that hangs ends only with its process.
#
#     DEVICE=cpu bash benchmarks/gpu_check.sh
#
# rehearses all parts on the CPU, with small inputs and emulated CUDA kernels.
#
#   OUT      folder of *.log, *.summary and *.jsonl            (default out/gpu_check)
#   PYTHON   Python interpreter                                (default python3)
#   PARTS    parts to run, for example "meshes training"       (default: all of the command)
#   DEVICE   cuda or cpu                                       (default cuda)
#   WGMMA    0 leaves out the wgmma kernel, if it hangs        (default 1)
#   DATA     dataset of the training part                      (default data/procedural, built if absent)
#   STEPS    steps of the training                             (default 800, on the CPU 20)
#
#     PARTS="machine modules training" STEPS=4000 bash benchmarks/gpu_check.sh rest
#
# trains the preset h200-minutes to its end, in four minutes.
set -uo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-out/gpu_check}
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
WGMMA=${WGMMA:-1}
DATA=${DATA:-data/procedural}
QUERY_PARTS="machine modules ptx smoke query_tests query_bench variants"
REST_PARTS="machine modules cuda_tests sanitizers meshes ious inside_meshes query_compiled triplanes training"

case ${1:-both} in
  both) bash "$0" query; first=$?; bash "$0" rest; exit $((first | $?)) ;;
  query) last_second=145 parts=${PARTS:-$QUERY_PARTS} ;;
  rest) last_second=445 parts=${PARTS:-$REST_PARTS} ;;
  *) echo "gpu_check.sh: unknown command '$1'; choose query or rest" >&2; exit 2 ;;
esac

export PATH=$PATH:/usr/local/cuda/bin # nvcc and compute-sanitizer may not be on it
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [[ $DEVICE == cuda ]]; then export OCCVAE_REQUIRE_CUDA=1; else last_second=1800; fi
[[ $DEVICE == cuda ]] && STEPS=${STEPS:-800} || STEPS=${STEPS:-20}
[[ $WGMMA == 0 ]] && export OCCVAE_TEST_QUERY_KERNEL=2
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
log=$OUT/$1.log summary=$OUT/$1.summary json=$OUT/$1.jsonl
rm -f "$log" "$summary" "$json"
exec > >(tee "$log") 2>&1
failed=0

# run NAME SECONDS COMMAND...: runs the command until its limit or the end of the script.
run() {
  local name=$1 limit=$2 started=$SECONDS status
  shift 2
  [[ $DEVICE == cpu ]] && limit=$((4 * limit)) # one core may do all the work
  ((limit > last_second - SECONDS)) && limit=$((last_second - SECONDS))
  if ((limit < 5)); then
    report "$name" "FAILED: no time left" 0
    return 1
  fi
  printf '\n=== %s (%d s at most, at %d s)\n' "$name" "$limit" "$SECONDS"
  timeout --kill-after=5 "$limit" "$@"
  status=$?
  case $status in
    0) report "$name" ok $((SECONDS - started)) ;;
    124 | 137) report "$name" "FAILED: out of time" $((SECONDS - started)) ;;
    *) report "$name" "FAILED: exit status $status" $((SECONDS - started)) ;;
  esac
  return $status
}

report() {
  printf '%-28s %4d s  %s\n' "$1" "$3" "$2" | tee -a "$summary"
  [[ $2 == FAILED* ]] && failed=1
}

# needs NAME MODULE...: whether the Python modules can be imported. If not, reports NAME as skipped.
needs() {
  local name=$1 missing
  shift
  missing=$("$PYTHON" - "$@" <<'PYTHON'
import importlib.util as util, sys
def found(name):
    try:
        return util.find_spec(name) is not None
    except ImportError:
        return False
print(", ".join(name for name in sys.argv[1:] if not found(name)))
PYTHON
  )
  [[ -z $missing ]] || report "$name" "skipped: not installed: $missing" 0
  [[ -z $missing ]]
}

pytest() {
  "$PYTHON" -c 'import sys; print(*sys.argv[1:], flush=True)' pytest "$@"
  exec "$PYTHON" -m pytest -q --tb=short -p no:cacheprovider --durations=3 -o timeout_method=thread "$@"
}
export -f pytest
export PYTHON

# run_tests NAME SECONDS ARGUMENTS...: runs tests that need a GPU. No test may take half a minute.
run_tests() {
  run "$1" "$2" bash -c 'pytest -m needs_cuda -o timeout=30 "$@"' bash "${@:3}"
}

# run_emulated NAME SECONDS ARGUMENTS...: the stand-in of run_tests on the CPU.
run_emulated() {
  run "$1, emulated" "$2" env OCCVAE_TEST_EMULATED_CUDA=1 bash -c 'pytest -o timeout=600 "$@"' bash "${@:3}"
}

machine() {
  run machine 20 bash -c '
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
    nvcc --version | tail -2
    nproc
    "$1" -c "
import sys, torch
print(\"Python\", sys.version.split()[0], \"torch\", torch.__version__, \"CUDA\", torch.version.cuda)
if sys.argv[1] == \"cpu\":
    raise SystemExit
assert torch.cuda.is_available(), \"torch sees no GPU; DEVICE=cpu rehearses on the CPU\"
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())" "$2"' machine "$PYTHON" "$DEVICE" ||
    { echo "without a GPU, no other part can run"; exit 1; }
}

# Uses the modules in occvae/ if they load and fit the Python sources, and otherwise builds them.
modules() {
  run "occvae info" 30 "$PYTHON" -c '
from occvae.cli import info
from occvae.ops import _extension, inside_mesh, marching_cubes, mise, query_occupancy
from occvae.ops import query_triplane, voxel_iou
print(info.describe(info.inspect_installation()))
raise SystemExit(any(_extension.status().values()))' && return
  [[ $DEVICE == cpu ]] && return
  build
}

# Builds in a copy, for the GPU of this machine. On Hopper that is 9.0a, which wgmma needs. Warnings
# of other compilers are allowed. Setuptools before 77 does not know the license of pyproject.toml.
build() {
  run build 110 bash -c '
    set -e
    tree=$(mktemp -d)
    trap "rm -rf $tree" EXIT
    cp -r csrc occvae setup.py README.md LICENSE "$tree"
    rm -f "$tree"/occvae/*.so
    sed "/^license = /d" pyproject.toml >"$tree/pyproject.toml"
    architecture=$("$PYTHON" -c "
import torch
major, minor = torch.cuda.get_device_capability()
print(f\"{major}.{minor}\" + \"a\" * (major == 9))")
    (cd "$tree" && OCCVAE_CUDA=1 OCCVAE_WERROR=0 \
      TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$architecture} "$PYTHON" setup.py -q build_ext --inplace)
    cp "$tree"/occvae/*.so occvae/'
}

ptx() {
  local file=tests/cuda_emulator/test_ptx.py
  if [[ $DEVICE == cpu ]]; then
    run "PTX units, emulated" 30 bash -c 'pytest -m "not needs_cuda" "$@"' bash $file
    return
  fi
  run_tests "PTX units" 35 $file -k "not wgmma and not cluster"
  [[ $WGMMA == 0 ]] || run_tests "PTX units, wgmma" 15 $file -v -k "wgmma or cluster"
}

smoke() {
  run smoke 35 "$PYTHON" benchmarks/cuda_smoke.py --device "$DEVICE" \
    --only voxel_iou meshes meshes_to_the_bounds points_inside_meshes queries triplane_queries
  [[ $WGMMA == 0 ]] ||
    run "smoke, wgmma" 20 "$PYTHON" benchmarks/cuda_smoke.py --device "$DEVICE" --only queries_wgmma
}

query_tests() {
  local file=tests/ops/test_query_occupancy_cuda.py
  if [[ $DEVICE == cpu ]]; then
    run_emulated "fused queries" 150 $file -k "float64 and not wgmma and 128"
    run_emulated "fused queries, wgmma" 30 $file -k "float64 and wgmma-fp16"
    return
  fi
  run_tests "fused queries" 45 $file -k "not wgmma"
  [[ $WGMMA == 0 ]] || run_tests "fused queries, wgmma" 30 $file -v -k "wgmma and not deep and not pairs"
}

# With fewer points, launches on a GPU take longer than kernels.
query_bench() {
  local options=(--quick --device "$DEVICE" --json "$json" --points 2000000)
  if [[ $DEVICE == cpu ]]; then
    run query_bench 60 "$PYTHON" benchmarks/query_bench.py "${options[@]}" --points 2000
    return
  fi
  run query_bench 30 "$PYTHON" benchmarks/query_bench.py "${options[@]}" --kernels fma mma
  [[ $WGMMA == 0 ]] ||
    run "query_bench, wgmma" 25 "$PYTHON" benchmarks/query_bench.py "${options[@]}" --kernels wgmma
}

# The variants of the wgmma kernel, compared with it in turns: the fastest is to be the only one.
variants() {
  local file=tests/ops/test_query_occupancy_cuda.py chosen="deep or pairs"
  if [[ $DEVICE == cpu ]]; then
    run_emulated "wgmma variants" 30 $file -k "float64 and fp16 and ($chosen)"
    return
  fi
  [[ $WGMMA == 0 ]] && return
  run_tests "wgmma variants" 25 $file -v -k "$chosen" &&
    run "query_bench, variants" 25 "$PYTHON" benchmarks/query_bench.py --quick --json "$json" \
      --device "$DEVICE" --points 2000000 --kernels wgmma wgmma-deep wgmma-pairs
}

# Compiles the decoder for half a minute.
query_compiled() {
  local options=(--quick --device "$DEVICE" --json "$json" --compiled "torch.compile, bf16")
  local kernels=(mma wgmma)
  [[ $WGMMA == 0 ]] && kernels=(mma)
  if [[ $DEVICE == cpu ]]; then
    report query_compiled "skipped: compiles for minutes on a CPU" 0
    return
  fi
  run query_compiled 70 "$PYTHON" benchmarks/query_bench.py "${options[@]}" --points 2000000 \
    --kernels "${kernels[@]}"
}

triplanes() {
  local points=2000000
  [[ $DEVICE == cpu ]] && points=2000
  run triplane_bench 30 "$PYTHON" benchmarks/triplane_bench.py --quick --device "$DEVICE" \
    --points $points --resolution 256 --json "$json"
}

# Files are named because others need packages that a bare machine lacks. With each instruction set
# of the CPU, the tests of queries would run the same CUDA kernels again.
cuda_tests() {
  local files=(
    tests/ops/test_devices_agree.py tests/ops/test_mise.py tests/ops/test_mise_native.py
    tests/ops/test_inside_mesh.py tests/ops/test_voxel_iou.py tests/ops/test_query_occupancy.py
    tests/ops/test_query_triplane.py tests/ops/test_uniform_field.py tests/ops/test_extension.py
    tests/geometry/test_nearest_neighbors.py
  )
  local workers=()
  needs "parallel tests" xdist && workers=(-n 4)
  if [[ $DEVICE == cpu ]]; then
    run "CUDA tests, collected" 60 bash -c 'pytest -m needs_cuda --collect-only "$@" | tail -3' bash "${files[@]}"
    run "CUDA tests, emulated" 225 bash -c 'pytest -m "not slow" "$@"' bash tests/cuda_emulator/test_ops.py
    return
  fi
  run_tests "CUDA tests" 130 "${files[@]}" "${workers[@]}" -k "not avx"
}

# PyTorch's memory cache is off, because it would hide accesses past the end of a tensor. initcheck
# is left out: it would have to watch the kernels of PyTorch, too, which write our inputs.
sanitizers() {
  local tool checks
  if [[ $DEVICE == cpu ]] || ! command -v compute-sanitizer >/dev/null; then
    report sanitizers "skipped: needs a GPU and compute-sanitizer" 0
    return
  fi
  for checks in "voxel_iou meshes meshes_to_the_bounds points_inside_meshes queries triplane_queries" queries_wgmma; do
    [[ $WGMMA == 0 && $checks == queries_wgmma ]] && continue
    for tool in memcheck racecheck; do
      run "$tool, ${checks##* }" 40 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer \
        --tool $tool --kernel-name kns=occvae --error-exitcode 9 --print-limit 10 \
        "$PYTHON" benchmarks/cuda_smoke.py --device cuda --only $checks
    done
  done
}

meshes() {
  local bench=("$PYTHON" benchmarks/mise_bench.py --device "$DEVICE" --json "$json")
  local small=(--resolution 128 256) large=(--scaling 256 512 1024 2048)
  if [[ $DEVICE == cpu ]]; then
    small=(--resolution 64) large=(--scaling 128 256)
  fi
  run "mise_bench fields" 40 "${bench[@]}" --only fields --field torus "${small[@]}"
  run "mise_bench scaling" 60 "${bench[@]}" --only scaling --scaling-field sphere "${large[@]}"
  if [[ $DEVICE == cpu || $WGMMA == 0 ]]; then
    report "mise_bench decoder" "skipped: needs a GPU and wgmma" 0
  else
    run "mise_bench decoder" 45 "${bench[@]}" --only decoder
  fi
}

ious() {
  local sizes=(--resolution 256 --batch 8)
  [[ $DEVICE == cpu ]] && sizes=(--resolution 64)
  run iou_bench 25 "$PYTHON" benchmarks/iou_bench.py --device "$DEVICE" "${sizes[@]}" --json "$json"
}

inside_meshes() {
  local points=(100000 1000000)
  [[ $DEVICE == cpu ]] && points=(2000)
  run inside_mesh_bench 45 "$PYTHON" benchmarks/inside_mesh_bench.py --device "$DEVICE" --repeats 5 \
    --points "${points[@]}" --json "$json"
}

# Times steps of the preset h200-minutes, trains it, and leaves its export, its contact sheet and a
# page of meshes in $OUT. Then times steps of other architectures if there is time.
training() {
  local run_folder=$OUT/run arch data=(--data "$DATA")
  local steps=("optim.steps=$STEPS" "optim.warmup_steps=$((STEPS / 20))" "validate_every=$(((STEPS + 1) / 2))")
  local bench=("$PYTHON" benchmarks/train_bench.py --device "$DEVICE" --quick --json "$json") repeats=30 limit=60
  local small=() shapes=(--shapes 16) others=(onet pix2vox-vae)
  needs training deepspeed pydantic h5py timm trimesh || return
  if [[ $DEVICE == cpu ]]; then
    small=(optim.batch_size=4 validate_shapes=4) shapes=(--shapes 3 --resolution 32) others=()
    repeats=2 limit=120 # also with two processes
  fi
  if [[ ! -e $DATA/dataset.json ]]; then
    needs training manifold3d || return
    run "build data" 60 "$PYTHON" -m occvae data build procedural "$DATA"
  fi
  run "train_bench vitocc" $limit "${bench[@]}" "${data[@]}" --arch vitocc --preset h200-minutes \
    --repeats $repeats "${small[@]}"
  rm -rf "$run_folder"
  # A training that is stopped at its limit saves a checkpoint first.
  run "training, $STEPS steps" $((last_second - SECONDS - 60)) "$PYTHON" launchers/train.py \
    --arch vitocc --preset h200-minutes "${data[@]}" --out "$run_folder" --device "$DEVICE" \
    "${steps[@]}" "${small[@]}"
  run "export" 20 "$PYTHON" - "$run_folder" "$OUT" <<'PYTHON'
import shutil, sys
from pathlib import Path
from occvae.models import from_pretrained, save_pretrained
run, out = map(Path, sys.argv[1:])
save_pretrained(from_pretrained(run), out / "model", half=True)
newest = max((run / "samples").glob("step-*.png"))
print("contact sheet", shutil.copy(newest, out / "contact_sheet.png"))
PYTHON
  run "page of shapes" 40 "$PYTHON" launchers/evaluate.py --model "$run_folder" "${data[@]}" \
    "${shapes[@]}" --device "$DEVICE" --json "$OUT/page.json" --html "$OUT/page.html"
  for arch in "${others[@]}"; do
    if ((last_second - SECONDS < 60)); then
      report "train_bench $arch" "skipped: no time left" 0
    else
      run "train_bench $arch" 60 "${bench[@]}" "${data[@]}" --arch "$arch"
    fi
  done
}

for part in $parts; do
  "$part"
done

printf '\n=== summary (%d s)\n' "$SECONDS"
cat "$summary"
exit $failed
