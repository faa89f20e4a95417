// The shared memory of the running blocks. Static shared variables are the thread-local variables
// of this module. The dynamic linker knows where they are, whichever templates declare them. They
// exist once, so kernels that run in clusters must not use any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {

void begin_shared_memory(size_t dynamic_bytes);  // at the start of a launch
void fill_shared_memory(uint8_t garbage);        // before each cluster
std::string check_shared_memory();               // after each cluster; returns an error or nothing
void end_shared_memory();

}  // namespace emulator
