// Names, constants and argument checks that every op uses. It holds no logic of a single op.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch_v2.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace occvae {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 256;  // threads per CUDA block

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The Python wrappers check arguments and tell users what is wrong. These checks guard direct calls
// of the ops.
inline void check_same_device(const Tensor& a, const Tensor& b, const char* op) {
  STD_TORCH_CHECK(a.device() == b.device(), op, ": tensors must be on one device");
}

inline void check_dtype(const Tensor& x, ScalarType dtype, const char* op, const char* name) {
  STD_TORCH_CHECK(x.scalar_type() == dtype, op, ": ", name, " has the wrong dtype");
}

inline void check_dim(const Tensor& x, int64_t dim, const char* op, const char* name) {
  STD_TORCH_CHECK(x.dim() == dim, op, ": ", name, " must have ", dim, " dimensions, got ", x.dim());
}

}  // namespace occvae

// Makes `import occvae.<name>` work. The import runs the op registrations of all files linked into
// the module.
#define OCCVAE_PYTHON_MODULE(name)                                                               \
  extern "C" __attribute__((visibility("default"))) PyObject* PyInit_##name() {                  \
    static PyModuleDef module = {                                                                \
        PyModuleDef_HEAD_INIT, #name, nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr}; \
    return PyModule_Create(&module);                                                             \
  }
