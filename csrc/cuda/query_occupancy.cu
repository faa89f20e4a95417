// query_occupancy on CUDA: the choice of the kernel, and the second pass of the range guard.
// Nothing here waits for the GPU, so calls can be captured in CUDA graphs.
#include <atomic>

#include "query_kernels.cuh"

namespace occvae {
namespace {

int64_t attribute(cudaDeviceAttr which) {
  int device = 0;
  int value = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

QueryDevice current_device() {
  return {attribute(cudaDevAttrMultiProcessorCount),
          10 * attribute(cudaDevAttrComputeCapabilityMajor) +
              attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

bool fits(QueryKernel kernel, const QueryDevice& device) {
  switch (kernel) {
    case QueryKernel::kWgmma:
      return device.capability == 90 && device.shared_bytes >= wgmma_query_bytes();
    case QueryKernel::kMma:
      return device.capability >= 80 && device.shared_bytes >= mma_query_bytes();
    default:
      return true;
  }
}

QueryKernel best_kernel() {
  const QueryDevice device = current_device();
  if (fits(QueryKernel::kWgmma, device) && wgmma_query_loaded()) return QueryKernel::kWgmmaPairs;
  return fits(QueryKernel::kMma, device) ? QueryKernel::kMma : QueryKernel::kFp32;
}

// The limit that tests and benchmarks set through query_kernel().
std::atomic<int64_t>& kernel_limit() {
  static std::atomic<int64_t> limit{static_cast<int64_t>(QueryKernel::kWgmma)};
  return limit;
}

// Returns the kernel that weights are packed for on the current device, or the variant of it that
// runs: the last one that the device has, up to the limit. A limit >= 0 first sets the limit, for
// all devices. Weights that are already packed keep their kernel, but not their variant.
int64_t query_kernel(int64_t limit) {
  if (limit >= 0) kernel_limit() = std::max<int64_t>(limit, 1);
  return std::min(kernel_limit().load(), static_cast<int64_t>(best_kernel()));
}

Query make_query(const QuerySizes& sizes, const Tensor& points, const Tensor& offsets,
                 const Tensor& input, const Tensor& affines, const Tensor& head, Tensor& logits) {
  return {{static_cast<const float*>(points.const_data_ptr()),
           static_cast<const int64_t*>(offsets.const_data_ptr()),
           static_cast<float*>(logits.mutable_data_ptr()), sizes.points, sizes.shapes},
          static_cast<const float*>(input.const_data_ptr()),
          static_cast<const float*>(affines.const_data_ptr()),
          static_cast<const float*>(head.const_data_ptr()),
          static_cast<int>(sizes.channels),
          static_cast<int>(sizes.layers / 2)};
}

bool has_sizes(const Tensor& x, const std::vector<int64_t>& sizes) {
  if (x.dim() != static_cast<int64_t>(sizes.size()) || !x.is_contiguous()) return false;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (x.size(static_cast<int64_t>(i)) != sizes[i]) return false;
  }
  return true;
}

// Returns the kernel that the weights were packed for. It is fp32 for every precision if no other
// kernel supports the width.
QueryKernel kernel_of(const Tensor& weights, const QuerySizes& sizes, Precision precision) {
  const int64_t c = sizes.channels;
  if (weights.scalar_type() == ScalarType::Float) {
    if (has_sizes(weights, {sizes.layers, c / kPanel, c, kPanel})) return QueryKernel::kFp32;
  } else {
    const bool half = precision == Precision::kFp16;
    STD_TORCH_CHECK(precision != Precision::kFp32 &&
                        weights.scalar_type() == (half ? ScalarType::Half : ScalarType::BFloat16),
                    "query_occupancy: weights were packed for another precision; pack them again");
    const int64_t elements = 2 * c * c;  // of one block
    const auto in_chunks = [&](int64_t chunk) {
      return has_sizes(weights, {sizes.layers / 2, elements / chunk, chunk});
    };
    if (in_chunks(kMmaChunk) && mma_has_width(c)) return QueryKernel::kMma;
    if (in_chunks(kWgmmaChunk) && wgmma_has_width(c)) return QueryKernel::kWgmma;
  }
  STD_TORCH_CHECK(
      false,
      "query_occupancy: weights were not packed on CUDA, or for other sizes; pack them again");
}

// Runs the 16-bit pass. In fp16, a second pass computes the points that left the range in fp32.
void run_16_bits(const Query& query, const Tensor& weights, const Tensor& exact_weights,
                 QueryKernel kernel, const QueryDevice& device, cudaStream_t stream) {
  const auto run = [&](int* reports) {
    if (kernel == QueryKernel::kMma) {
      return launch_mma_query(query, weights, reports, device, stream);
    }
    const auto variant = std::max(kernel, static_cast<QueryKernel>(kernel_limit().load()));
    return launch_wgmma_query(query, weights, reports, variant, device, stream);
  };
  if (weights.scalar_type() != ScalarType::Half) {
    run(nullptr);
    return;
  }
  Tensor reports = torch::stable::new_empty(weights, {most_reports(device)}, ScalarType::Int);
  auto* data = static_cast<int*>(reports.mutable_data_ptr());
  const int64_t count = run(data);
  launch_fp32_query(query, exact_weights, {data, count}, device, stream);
}

Tensor query_occupancy(const Tensor& points, const Tensor& offsets, const Tensor& input,
                       const Tensor& weights, const Tensor& exact_weights, const Tensor& affines,
                       const Tensor& head, int64_t precision) {
  const QuerySizes sizes = check_query_arguments(points, offsets, input, weights, exact_weights,
                                                 affines, head, precision);
  const torch::stable::accelerator::DeviceGuard guard(points.get_device_index());
  const QueryKernel kernel = kernel_of(weights, sizes, static_cast<Precision>(precision));
  STD_TORCH_CHECK(
      exact_weights.scalar_type() == ScalarType::Float,
      "query_occupancy: exact_weights were not packed for fp32; pack them with precision 0");
  kernel_of(exact_weights, sizes, Precision::kFp32);
  Tensor logits = torch::stable::new_empty(points, {sizes.points});
  if (sizes.points == 0) return logits;
  const Tensor p = torch::stable::contiguous(points);
  const Tensor o = torch::stable::contiguous(offsets);
  const Tensor i = as_operand(input);
  const Tensor a = as_operand(affines);
  const Tensor h = as_operand(head);
  const Query query = make_query(sizes, p, o, i, a, h, logits);
  const QueryDevice device = current_device();
  STD_TORCH_CHECK(fits(kernel, device),
                  "query_occupancy: weights were packed for another GPU; pack them on this one");
  if (kernel == QueryKernel::kFp32 || sizes.layers == 0) {
    launch_fp32_query(query, exact_weights, {nullptr, 0}, device, current_stream(points));
  } else {
    run_16_bits(query, weights, exact_weights, kernel, device, current_stream(points));
  }
  return logits;
}

}  // namespace

QueryKernel choose_query_kernel(Precision precision, int64_t channels) {
  const int64_t allowed = precision == Precision::kFp32 ? 1 : query_kernel(-1);
  if (allowed >= 3 && wgmma_has_width(channels)) return QueryKernel::kWgmma;
  if (allowed >= 2 && mma_has_width(channels)) return QueryKernel::kMma;
  return QueryKernel::kFp32;
}

}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CUDA, m) {
  m.impl("query_occupancy", TORCH_BOX(&occvae::query_occupancy));
}

STABLE_TORCH_LIBRARY_IMPL(occvae, CompositeExplicitAutograd, m) {
  m.impl("_cuda_query_kernel", TORCH_BOX(&occvae::query_kernel));
}
