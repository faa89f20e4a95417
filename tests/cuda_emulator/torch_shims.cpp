// Replaces the functions of libtorch_cuda that CUDA kernels call through the stable ABI, for
// tensors on the CPU. The module is linked with -Bsymbolic, so it uses these even if libtorch_cuda
// is loaded.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

extern "C" {

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return 0; }

AOTITorchError torch_c10_cuda_check_msg(int32_t error, const char*, const char*, uint32_t, bool,
                                        char** message) {
  *message = error == 0 ? nullptr : strdup("CUDA emulator: a runtime call failed");
  return 0;
}

void torch_c10_cuda_free_error_msg(char* message) { std::free(message); }
}
