// Schedules the threads of a cluster, and runs the clusters of a grid in random order. waiting.cpp
// implements the barriers and collectives that threads wait at.
#include "block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <stdexcept>

#include "async.h"
#include "scheduler.h"
#include "shared_memory.h"
#include "tensor_cores.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {

Launch launch;

namespace {

int running_capability;  // cached, because each instruction needs it
std::vector<std::unique_ptr<Fiber>> idle_fibers;
uint64_t random_state;

void seed(uint64_t value) { random_state = 0x9E3779B97F4A7C15u * (2 * value + 1); }

// Returns the first set bit at or after a random position. This is cheap, and every set bit can be
// drawn.
unsigned random_set_bit(uint32_t word, unsigned random) {
  const unsigned begin = random % 32;
  const uint32_t turned = word >> begin | word << (32 - begin) % 32;
  return (begin + static_cast<unsigned>(__builtin_ctz(turned))) % 32;
}

void unready() {
  const unsigned t = launch.current;
  if ((launch.ready[t / kWarpSize] &= ~(1u << t % kWarpSize)) == 0) {
    launch.ready_warps &= ~(1u << t / kWarpSize);
  }
}

void thread_entry() {
  launch.body(launch.data);
  suspend(State::kEnded, "");
}

unsigned pick() {
  const uint64_t random = random_bits();
  const auto for_warp = static_cast<unsigned>(random >> 40), for_lane = for_warp >> 5;
  if (launch.by_warp) {
    if (random >> 58 == 0) {
      const auto n = static_cast<unsigned>(launch.warp_order.size());
      std::swap(launch.warp_order[random_below(n)], launch.warp_order[random_below(n)]);
    }
    for (unsigned warp : launch.warp_order) {
      if (uint32_t ready = launch.ready[warp]) {
        return warp * kWarpSize + random_set_bit(ready, for_lane);
      }
    }
  }
  const unsigned warp = random_set_bit(launch.ready_warps, for_warp);
  return warp * kWarpSize + random_set_bit(launch.ready[warp], for_lane);
}

void end_thread(unsigned t) {
  Thread& thread = launch.threads[t];
  idle_fibers.push_back(std::move(thread.fiber));
  launch.absent[t / kWarpSize] |= 1u << t % kWarpSize;
  const unsigned live = --launch.live[rank_of(t)];
  // A barrier of all threads may be complete now.
  if (const int key = barrier_key(rank_of(t), 0); launch.barriers.count(key) && live > 0) {
    check_barrier(key);
  }
  if (launch.barriers.count(kClusterBarrier)) check_barrier(kClusterBarrier);
}

void run_thread(unsigned t) {
  Thread& thread = launch.threads[t];
  if (!thread.fiber) {
    if (idle_fibers.empty()) idle_fibers.push_back(std::make_unique<Fiber>());
    thread.fiber = std::move(idle_fibers.back());
    idle_fibers.pop_back();
    thread.fiber->prepare(thread_entry);
  }
  launch.current = t;
  const unsigned in_block = t % launch.per_block;
  threadIdx.x = in_block % blockDim.x;
  threadIdx.y = in_block / blockDim.x % blockDim.y;
  threadIdx.z = in_block / (blockDim.x * blockDim.y);
  blockIdx.x = launch.first_block + rank_of(t);
  thread.fiber->resume();
  if (thread.state == State::kEnded) end_thread(t);
}

std::string who_waits() {
  std::map<std::string, std::vector<unsigned>> waiting;
  for (unsigned t = 0; t < launch.threads.size(); ++t) {
    const Thread& thread = launch.threads[t];
    waiting[thread.state == State::kEnded ? "have ended" : thread.waits_for].push_back(t);
  }
  std::string text;
  for (const auto& [what, who] : waiting) {
    text += "; " + std::to_string(who.size()) + " threads (the first is " + std::to_string(who[0]) +
            ") " + (what == "have ended" ? what : "wait at " + what);
  }
  return text;
}

void prepare_cluster() {
  const unsigned threads = launch.cluster * launch.per_block;
  launch.threads.resize(threads);
  std::fill_n(launch.live, launch.cluster, launch.per_block);
  launch.barriers.clear();
  std::fill_n(launch.any, launch.cluster, false);
  launch.ready_warps = 0;
  std::fill(std::begin(launch.ready), std::end(launch.ready), 0);
  std::fill(std::begin(launch.in_collective), std::end(launch.in_collective), 0);
  std::fill(std::begin(launch.absent), std::end(launch.absent), ~0u);
  for (unsigned t = 0; t < threads; ++t) {
    launch.absent[t / kWarpSize] &= ~(1u << t % kWarpSize);
    make_ready(t);
  }
  launch.by_warp = random_below(2);
  launch.warp_order.resize((threads + kWarpSize - 1) / kWarpSize);
  std::iota(launch.warp_order.begin(), launch.warp_order.end(), 0);
  for (size_t i = launch.warp_order.size(); i > 1; --i) {
    std::swap(launch.warp_order[i - 1], launch.warp_order[random_below(static_cast<unsigned>(i))]);
  }
  fill_shared_memory(random_below(2) ? 0xFF : 0xA5);
  begin_copies(threads);
  begin_wgmma();
}

bool any_live() {
  return std::any_of(launch.live, launch.live + launch.cluster, [](unsigned n) { return n > 0; });
}

void run_cluster() {
  while (any_live() && launch.error.empty()) {
    deliver_sometimes();
    if (launch.ready_warps == 0 && !deliver_one()) {
      launch.error = "deadlock" + who_waits();
      break;
    }
    if (launch.ready_warps != 0) run_thread(pick());
  }
  if (launch.error.empty()) launch.error = end_copies();
  if (launch.error.empty()) launch.error = end_wgmma();
  if (launch.error.empty()) launch.error = check_shared_memory();
}

void check_configuration(dim3 grid, dim3 block, size_t shared_bytes, unsigned cluster) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || grid.x == 0 || grid.y != 1 || grid.z != 1 ||
      grid.x > 0x7FFFFFFF || cluster == 0 || cluster > kMaxCluster || grid.x % cluster != 0) {
    throw std::runtime_error("CUDA emulator: invalid launch configuration");
  }
  if (cluster > 1 && (threads % kWarpgroupSize != 0 || cluster * threads > kMaxThreads)) {
    throw std::runtime_error("CUDA emulator: clusters of this size are not emulated");
  }
  if (shared_bytes > static_cast<size_t>(max_dynamic_shared_bytes())) {
    throw std::runtime_error("CUDA emulator: " + std::to_string(shared_bytes) +
                             " bytes of shared memory, the device has " +
                             std::to_string(max_dynamic_shared_bytes()));
  }
}

}  // namespace

unsigned random_below(unsigned n) { return static_cast<unsigned>((random_bits() >> 32) * n >> 32); }

void make_ready(unsigned t) {
  launch.threads[t].state = State::kReady;
  launch.in_collective[t / kWarpSize] &= ~(1u << t % kWarpSize);
  launch.ready[t / kWarpSize] |= 1u << t % kWarpSize;
  launch.ready_warps |= 1u << t / kWarpSize;
}

void suspend(State state, const char* waits_for) {
  Thread& thread = launch.threads[launch.current];
  thread.state = state;
  thread.waits_for = waits_for;
  if (state != State::kReady) unready();
  thread.fiber->suspend();
}

extern "C" __attribute__((visibility("default"))) void occvae_emulator_seed(uint64_t value) {
  seed(value);
}

int capability() {
  int major = 9, minor = 0;
  if (const char* given = std::getenv("OCCVAE_EMULATED_DEVICE")) {
    std::sscanf(given, "%d.%d", &major, &minor);
  }
  return 10 * major + minor;
}

int max_dynamic_shared_bytes() {
  switch (capability()) {
    case 80:
    case 87:
      return 163 * 1024;
    case 86:
    case 89:
      return 99 * 1024;
    default:
      return 227 * 1024;
  }
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, unsigned cluster, void (*body)(void*),
              void* data) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  check_configuration(grid, block, shared_bytes, cluster);
  if (random_state == 0) {
    const char* given = std::getenv("OCCVAE_EMULATOR_SEED");
    seed(given ? std::strtoull(given, nullptr, 10) : 0);
  }
  running_capability = capability();
  launch.body = body;
  launch.data = data;
  launch.error.clear();
  launch.cluster = cluster;
  launch.per_block = block.x * block.y * block.z;
  gridDim = grid;
  blockDim = block;
  begin_shared_memory(shared_bytes);
  std::vector<unsigned> order(grid.x / cluster);
  std::iota(order.begin(), order.end(), 0);
  for (auto i = static_cast<unsigned>(order.size()); i > 0 && launch.error.empty(); --i) {
    std::swap(order[i - 1], order[random_below(i)]);
    launch.first_block = cluster * order[i - 1];
    prepare_cluster();
    run_cluster();
    if (!launch.error.empty()) {
      launch.error = "CUDA emulator: block " + std::to_string(blockIdx.x) + ": " + launch.error;
    }
  }
  end_shared_memory();
  if (!launch.error.empty()) {
    launch.threads.clear();  // unmaps the unfinished threads of their fibers, without unwinding
    throw std::runtime_error(launch.error);
  }
}

void fail(const char* format, ...) {
  char text[1024];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof(text), format, values);
  va_end(values);
  launch.error = "thread " + std::to_string(launch.current) + ": " + text;
  for (;;) launch.threads[launch.current].fiber->suspend();
}

void require_capability(int least, const char* instruction) {
  if (running_capability >= least) return;
  fail("%s needs compute capability %d.%d, the device has %d.%d", instruction, least / 10,
       least % 10, running_capability / 10, running_capability % 10);
}

unsigned thread_number() { return launch.current; }

unsigned block_rank() { return rank_of(launch.current); }

uint64_t random_bits() {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * 0x2545F4914F6CDD1Du;
}

void yield() { suspend(State::kReady, ""); }

void sometimes_yield() {
  if (random_below(16) == 0) yield();
}

}  // namespace emulator
