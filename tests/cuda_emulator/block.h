// Runs the blocks of a grid one after another, the threads of a block as fibers.
//
// A fiber runs until it waits for others. Who runs next is drawn from a seeded generator, so that
// code that relies on an order which no barrier enforces gives wrong results under some seed. What
// a kernel must not do ends the launch with std::runtime_error.
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

// One set for all fibers: resuming a fiber sets its threadIdx.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulator {

constexpr unsigned kWarpSize = 32;
constexpr unsigned kWarpgroupSize = 128;
constexpr unsigned kMaxThreads = 1024;

// Ten times the compute capability of the pretended device: OCCVAE_EMULATED_DEVICE=8.0,
// default 9.0.
int capability();
constexpr int kMultiprocessors = 3;  // few, so that grid-stride loops loop
int max_dynamic_shared_bytes();

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* data);

// Everything below is for the device side, inside of run_grid.

// Ends the launch with this message and the place (block and thread) of the caller.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

void require_capability(int least, const char* instruction);  // as capability() counts

unsigned thread_number();  // of the running thread in its block
uint64_t random_bits();
void yield();            // lets others run first
void sometimes_yield();  // does so now and then

void barrier_sync(int id, int threads);  // threads 0: all that have not ended
bool barrier_or(bool predicate);         // __syncthreads_or
// Waits until done(data); whoever may have made it true calls wake_waiters().
void wait_until(const char* what, bool (*done)(uint64_t), uint64_t data);
void wake_waiters();

// Called by all lanes of `mask`, each with its arguments: the last to come executes for all of
// them. arguments[lane] is null for lanes out of the mask.
using Execute = void (*)(void* const* arguments, unsigned mask);
void warp_collective(const char* name, unsigned mask, void* arguments, Execute execute);
// The same for the 128 threads of a warpgroup.
using ExecuteWarpgroup = void (*)(void* const* arguments, unsigned first_thread);
void warpgroup_collective(const char* name, void* arguments, ExecuteWarpgroup execute);

// Shared memory. Dynamic memory has low addresses that are not 0, static memory has high ones.
uint8_t* dynamic_shared();
uint32_t shared_address(const void* pointer);
uint8_t* shared_pointer(uint32_t address, size_t bytes, size_t alignment);
// What the asynchronous units see: a copy of dynamic shared memory that fence.proxy.async updates.
uint8_t* async_view(uint8_t* pointer);
void update_async_view();

}  // namespace emulator
