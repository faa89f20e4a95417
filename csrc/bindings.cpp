// The schemas of all ops. Each kernel is registered where it is defined, in cpu/ and cuda/.
//
// The Python wrapper of each op in occvae/ops repeats its schema, so the op exists even if this
// module was not built. Importing occvae fails if the two schemas differ.
#include <Python.h>

#include <algorithm>

#include "common.h"
#include "cpu/isa.h"
#include "mise.h"

namespace {

// Returns the instruction set in use. A limit >= 0 first sets it, to at most the best one that the
// machine has.
int64_t cpu_isa(int64_t limit) {
  using occvae::Isa;
  if (limit >= 0) {
    const auto best = static_cast<int64_t>(occvae::detect_isa());
    occvae::current_isa() = static_cast<Isa>(std::min(limit, best));
  }
  return static_cast<int64_t>(occvae::current_isa().load());
}

int64_t mise_state_size(int64_t resolution, int64_t coarse_resolution) {
  return occvae::mise_layout(resolution, coarse_resolution).size();
}

}  // namespace

STABLE_TORCH_LIBRARY(occvae, m) {
  // pred (B, ...) floating. target (B, ...) bool, uint8 or floating; if packed, uint8 (B, ceil(n /
  // 8)) as numpy.packbits writes it. Returns int64 (B, T, 2): intersection, union.
  m.def(
      "voxel_iou_counts(Tensor pred, Tensor target, float[] thresholds, bool packed=False)"
      " -> Tensor");
  // One round of exact MISE: mark the known points, choose the cells to split, make their new
  // points. state int64 (B, _mise_state_size) starts as zeros. points int32 (N, 3), shape_index
  // int64 (N,), values floating (N,). problems int64 (2,) counts values that are NaN, and points
  // outside the lattice or the batch; neither are marked. splits int64 (S,) is input of mise_points
  // and has no other use. added int64 (1,) is the number of points that mise_points will make.
  m.def(
      "mise_mark(Tensor(a!) state, Tensor points, Tensor shape_index, Tensor values, float level,"
      " int resolution, int coarse_resolution) -> Tensor problems");
  m.def(
      "mise_split(Tensor(a!) state, int resolution, int coarse_resolution)"
      " -> (Tensor splits, Tensor added)");
  m.def(
      "mise_points(Tensor(a!) state, Tensor splits, int added, int resolution,"
      " int coarse_resolution) -> (Tensor points, Tensor shape_index)");
  // points int32 (N, 3), values floating (N,), shape_index int64 (N,), or (0,) for one shape.
  // vertices float32 (V, 3) and faces int64 (F, 3) of one shape after the other. Faces count the
  // vertices of their shape from 0. with_edges adds edges int32 (V, 4), the lower end and the axis
  // of each vertex's edge, and ends float64 (V, 2), value - level at both ends. sizes int64 (B, 2),
  // always on the CPU, has the numbers of vertices and faces of each shape. problems int64 (4,),
  // always on the CPU, counts crossed edges with unknown ends, repeated points, values that are
  // NaN, and points outside the lattice.
  m.def(
      "marching_cubes(Tensor points, Tensor values, Tensor shape_index, int num_shapes,"
      " int resolution, int coarse_resolution, float level, float lower, float upper,"
      " bool with_edges=False) -> (Tensor vertices, Tensor faces, Tensor edges, Tensor ends,"
      " Tensor sizes, Tensor problems)");
  // The decoder of csrc/query_occupancy.h. precision: 0 fp32, 1 fp16, 2 bf16. weights float32 (2L,
  // C, C), C a multiple of 32. Only this device's kernel can read the packed tensor.
  m.def("_pack_query_weights(Tensor weights, int precision) -> Tensor");
  // points (M, 3) sorted by shape. offsets int64 (B + 1,): shape b owns rows offsets[b] to
  // offsets[b + 1]. Rows from offsets[B] on belong to no shape and get logit 0. input (3, C),
  // affines (B, 2L + 1, 2, C) as [scale, shift], head (C + 1,); all float32. weights are packed for
  // `precision`, exact_weights for fp32. Returns logits (M,).
  m.def(
      "query_occupancy(Tensor points, Tensor offsets, Tensor input, Tensor weights,"
      " Tensor exact_weights, Tensor affines, Tensor head, int precision) -> Tensor");
  // The decoder of csrc/query_triplane.h. points and offsets as for query_occupancy. planes (B, 3,
  // R, R, C), C a multiple of 32, whose dtype is the precision; weights packed for it (see
  // check_triplane_weights). exact_planes and exact_weights are the same in fp32. biases (L, C),
  // head (C + 1,). Returns logits (M,).
  m.def(
      "query_triplane(Tensor points, Tensor offsets, Tensor planes, Tensor weights,"
      " Tensor exact_planes, Tensor exact_weights, Tensor biases, Tensor head) -> Tensor");
  // vertices (V, 3) float32 or float64, points (N, 3) of the same dtype, faces (F, 3) int64.
  // Returns bool (N,): whether a ray from the point towards +z crosses an odd number of faces.
  m.def("inside_mesh(Tensor vertices, Tensor faces, Tensor points) -> Tensor");
  // The same inputs. Returns float64 (N,): the signed solid angles of all faces over 4 pi.
  m.def("winding_number(Tensor vertices, Tensor faces, Tensor points) -> Tensor");
  // The same inputs, level > 0. Returns int8 (N,): 1 where the winding number is at least `level`,
  // -1 where it is at most -level, 0 elsewhere.
  m.def("winding_sign(Tensor vertices, Tensor faces, Tensor points, float level) -> Tensor");
  m.def("_mise_state_size(int resolution, int coarse_resolution) -> int");
  m.def("_cpu_isa(int limit=-1) -> int");
  m.def("_cuda_query_kernel(int limit=-1) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(occvae, CompositeExplicitAutograd, m) {
  m.impl("_cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("_mise_state_size", TORCH_BOX(&mise_state_size));
}

OCCVAE_PYTHON_MODULE(_C)
