// query_triplane on CUDA: the choice of the kernel, and the second pass of the range guard. Nothing
// here waits for the GPU, so calls can be captured in CUDA graphs.
#include "triplane_query.cuh"

namespace occvae {
namespace {

bool has_tensor_cores() {
  int device = 0;
  int major = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major >= 8;
}

// Runs the 16-bit pass. In fp16, a second pass computes the points that left the range in fp32.
void run_16_bits(const TriplaneQuery& query, const TriplaneQuery& exact, int channels,
                 const Tensor& planes, cudaStream_t stream) {
  if (planes.scalar_type() != ScalarType::Half) {
    launch_mma_triplane(query, channels, false, nullptr, stream);
    return;
  }
  Tensor reports = torch::stable::new_empty(planes, {most_triplane_reports()}, ScalarType::Int);
  auto* data = static_cast<int*>(reports.mutable_data_ptr());
  const int64_t count = launch_mma_triplane(query, channels, true, data, stream);
  launch_fp32_triplane(exact, channels, {data, count}, stream);
}

Tensor query_triplane(const Tensor& points, const Tensor& offsets, const Tensor& planes,
                      const Tensor& weights, const Tensor& exact_planes,
                      const Tensor& exact_weights, const Tensor& biases, const Tensor& head) {
  const TriplaneSizes sizes = check_triplane_arguments(points, offsets, planes, weights,
                                                       exact_planes, exact_weights, biases, head);
  STD_TORCH_CHECK(sizes.channels <= kMostTriplaneChannels,
                  "query_triplane: CUDA kernels take at most ", kMostTriplaneChannels,
                  " channels, got ", sizes.channels);
  const Precision precision = plane_precision(planes);
  const torch::stable::accelerator::DeviceGuard guard(points.get_device_index());
  Tensor logits = torch::stable::new_empty(points, {sizes.points});
  if (sizes.points == 0) return logits;
  const Tensor p = torch::stable::contiguous(points), o = torch::stable::contiguous(offsets);
  const Tensor f = as_operand(planes), e = as_operand(exact_planes);
  const Tensor w = as_operand(weights), x = as_operand(exact_weights);
  const Tensor b = as_operand(biases), h = as_operand(head);
  const QueryRows rows{static_cast<const float*>(p.const_data_ptr()),
                       static_cast<const int64_t*>(o.const_data_ptr()),
                       static_cast<float*>(logits.mutable_data_ptr()), sizes.points, sizes.shapes};
  const TriplaneQuery exact{rows,
                            e.const_data_ptr(),
                            x.const_data_ptr(),
                            static_cast<const float*>(b.const_data_ptr()),
                            static_cast<const float*>(h.const_data_ptr()),
                            LatticeMap(sizes.nodes),
                            static_cast<int>(sizes.nodes),
                            static_cast<int>(sizes.layers)};
  TriplaneQuery query = exact;
  query.planes = f.const_data_ptr();
  query.weights = w.const_data_ptr();
  const auto channels = static_cast<int>(sizes.channels);
  if (precision == Precision::kFp32 || !has_tensor_cores()) {
    launch_fp32_triplane(exact, channels, {nullptr, 0}, current_stream(points));
  } else {
    run_16_bits(query, exact, channels, planes, current_stream(points));
  }
  return logits;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CUDA, m) {
  m.impl("query_triplane", TORCH_BOX(&occvae::query_triplane));
}
