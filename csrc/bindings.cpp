// The schema of every op. Kernels are registered where they are defined, in cpu/ and cuda/.
//
// The wrapper of each op in occvae/ops repeats its schema, so that the op also exists where this
// module was not built; importing occvae refuses a binary whose schemas differ.
#include <Python.h>

#include <algorithm>

#include "common.h"
#include "cpu/isa.h"

namespace {

// Returns the instruction set in use; a limit >= 0 first sets it, to at most the machine's best.
int64_t cpu_isa(int64_t limit) {
  using occvae::Isa;
  if (limit >= 0) {
    const auto best = static_cast<int64_t>(occvae::detect_isa());
    occvae::current_isa() = static_cast<Isa>(std::min(limit, best));
  }
  return static_cast<int64_t>(occvae::current_isa().load());
}

}  // namespace

STABLE_TORCH_LIBRARY(occvae, m) {
  // pred (B, ...) floating; target (B, ...) bool, uint8 or floating, or if packed uint8
  // (B, ceil(n / 8)) as numpy.packbits writes it. Returns int64 (B, T, 2): intersection, union.
  m.def(
      "voxel_iou_counts(Tensor pred, Tensor target, float[] thresholds, bool packed=False)"
      " -> Tensor");
  m.def("_cpu_isa(int limit=-1) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(occvae, CompositeExplicitAutograd, m) {
  m.impl("_cpu_isa", TORCH_BOX(&cpu_isa));
}

OCCVAE_PYTHON_MODULE(_C)
