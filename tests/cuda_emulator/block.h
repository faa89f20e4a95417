// Runs the blocks of a grid one after another, and the threads of a block as fibers. The blocks of
// a cluster run together, and their threads are numbered one block after the other.
//
// A fiber runs until it waits for others. A seeded generator draws the fiber that runs next. Code
// that relies on an order that no barrier enforces therefore gives wrong results under some seed.
// If a kernel does something that is not allowed, the launch ends with std::runtime_error.
#pragma once

#include <cstddef>
#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// All fibers share these variables. Resuming a fiber sets its threadIdx.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulator {

constexpr unsigned kWarpSize = 32;
constexpr unsigned kWarpgroupSize = 128;
constexpr unsigned kMaxThreads = 1024;  // per block and per cluster
constexpr unsigned kMaxCluster = 8;     // blocks

// Ten times the compute capability of the emulated device. OCCVAE_EMULATED_DEVICE=8.0 selects
// another one than the default 9.0.
int capability();
constexpr int kMultiprocessors = 3;  // few, so grid-stride loops do loop
int max_dynamic_shared_bytes();

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, unsigned cluster, void (*body)(void*),
              void* data);

// Everything below is called by device code, inside run_grid.

// Ends the launch with this message, prefixed by the caller's block and thread.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

void require_capability(int least, const char* instruction);  // `least` is ten times the capability

unsigned thread_number();  // number of the running thread in its cluster
unsigned block_rank();     // rank of the running thread's block in its cluster
uint64_t random_bits();
void yield();            // lets other threads run first
void sometimes_yield();  // does so at random

void barrier_sync(int id, int threads);  // threads = 0 means all that have not ended
bool barrier_or(bool predicate);         // __syncthreads_or
void cluster_sync();                     // all threads of the cluster that have not ended
// Waits until done(data). Whoever may have made it true must call wake_waiters().
void wait_until(const char* what, bool (*done)(uint64_t), uint64_t data);
void wake_waiters();

// All lanes of `mask` call this with their arguments, and the last one to arrive executes for all
// of them. arguments[lane] is null for lanes outside the mask.
using Execute = void (*)(void* const* arguments, unsigned mask);
void warp_collective(const char* name, unsigned mask, void* arguments, Execute execute);
// The same for the 128 threads of a warpgroup.
using ExecuteWarpgroup = void (*)(void* const* arguments, unsigned first_thread);
void warpgroup_collective(const char* name, void* arguments, ExecuteWarpgroup execute);

// Shared memory. Dynamic memory has low addresses other than 0, static memory has high ones. They
// are those of the running thread's block. map_to_block() gives addresses in any block of the
// cluster. The block must not have ended.
uint8_t* dynamic_shared();
uint32_t shared_address(const void* pointer);
uint32_t map_to_block(uint32_t address, unsigned rank);
uint8_t* shared_pointer(uint32_t address, size_t bytes, size_t alignment);
// The copy of dynamic shared memory that the asynchronous units see. fence.proxy.async updates it.
uint8_t* async_view(uint8_t* pointer);
void update_async_view();

}  // namespace emulator
