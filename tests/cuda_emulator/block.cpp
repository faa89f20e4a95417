#include "block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "async.h"
#include "fiber.h"
#include "shared_memory.h"
#include "tensor_cores.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {
namespace {

enum class State : uint8_t { kReady, kBarrier, kCollective, kWarpgroup, kCondition, kEnded };

struct Thread {
  State state;
  std::unique_ptr<Fiber> fiber;  // from the thread's first to its last instruction
  const char* waits_for;
  int barrier;
  unsigned mask;  // of a collective
  void* arguments;
  bool (*done)(uint64_t);
  uint64_t data;
};

struct Barrier {
  int expected = 0;
  int arrived = 0;
};

// The launch under way. The mutex of run_grid makes it the only one.
struct Launch {
  void (*body)(void*);
  void* data;
  std::vector<Thread> threads;
  unsigned live, current;
  uint32_t ready_warps;
  uint32_t ready[kMaxThreads / kWarpSize];
  uint32_t in_collective[kMaxThreads / kWarpSize];
  uint32_t absent[kMaxThreads / kWarpSize];  // ended, or beyond the block
  std::map<int, Barrier> barriers;
  bool any;      // of __syncthreads_or
  bool by_warp;  // run one warp as far as it gets, or any thread in turn
  std::vector<unsigned> warp_order;
  std::string error;
};

Launch launch;
int running_capability;  // the environment is not asked for each instruction
std::vector<std::unique_ptr<Fiber>> idle_fibers;
uint64_t random_state;

void seed(uint64_t value) { random_state = 0x9E3779B97F4A7C15u * (2 * value + 1); }

unsigned random_below(unsigned n) { return static_cast<unsigned>((random_bits() >> 32) * n >> 32); }

// The first set bit from a random one on: cheap, and any set bit may be it.
unsigned random_set_bit(uint32_t word, unsigned random) {
  const unsigned begin = random % 32;
  const uint32_t turned = word >> begin | word << (32 - begin) % 32;
  return (begin + static_cast<unsigned>(__builtin_ctz(turned))) % 32;
}

void make_ready(unsigned t) {
  launch.threads[t].state = State::kReady;
  launch.in_collective[t / kWarpSize] &= ~(1u << t % kWarpSize);
  launch.ready[t / kWarpSize] |= 1u << t % kWarpSize;
  launch.ready_warps |= 1u << t / kWarpSize;
}

void unready(unsigned t) {
  if ((launch.ready[t / kWarpSize] &= ~(1u << t % kWarpSize)) == 0) {
    launch.ready_warps &= ~(1u << t / kWarpSize);
  }
}

Thread& self() { return launch.threads[launch.current]; }

// Puts the running thread to sleep until someone makes it ready.
void suspend(State state, const char* waits_for) {
  Thread& thread = self();
  thread.state = state;
  thread.waits_for = waits_for;
  if (state != State::kReady) unready(launch.current);
  thread.fiber->suspend();
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

void release(int id) {
  for (unsigned t = 0; t < launch.threads.size(); ++t) {
    Thread& thread = launch.threads[t];
    if (thread.state == State::kBarrier && thread.barrier == id) make_ready(t);
  }
  launch.barriers.erase(id);
}

void check_barrier(int id) {
  const Barrier& barrier = launch.barriers[id];
  const int expected = barrier.expected ? barrier.expected : static_cast<int>(launch.live);
  if (barrier.arrived >= expected) release(id);
}

void end_thread(unsigned t) {
  Thread& thread = launch.threads[t];
  idle_fibers.push_back(std::move(thread.fiber));
  launch.absent[t / kWarpSize] |= 1u << t % kWarpSize;
  --launch.live;
  // A barrier of all threads may be complete now.
  if (auto all = launch.barriers.find(0); all != launch.barriers.end() && launch.live > 0) {
    check_barrier(0);
  }
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
  threadIdx.x = t % blockDim.x;
  threadIdx.y = t / blockDim.x % blockDim.y;
  threadIdx.z = t / (blockDim.x * blockDim.y);
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

void prepare_block(unsigned threads) {
  launch.threads.resize(threads);
  launch.live = threads;
  launch.barriers.clear();
  launch.any = false;
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

void run_block() {
  while (launch.live > 0 && launch.error.empty()) {
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

void check_configuration(dim3 grid, dim3 block, size_t shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || grid.x == 0 || grid.y != 1 || grid.z != 1 ||
      grid.x > 0x7FFFFFFF) {
    throw std::runtime_error("CUDA emulator: invalid launch configuration");
  }
  if (shared_bytes > static_cast<size_t>(max_dynamic_shared_bytes())) {
    throw std::runtime_error("CUDA emulator: " + std::to_string(shared_bytes) +
                             " bytes of shared memory, the device has " +
                             std::to_string(max_dynamic_shared_bytes()));
  }
}

}  // namespace

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

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* data) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  check_configuration(grid, block, shared_bytes);
  if (random_state == 0) {
    const char* given = std::getenv("OCCVAE_EMULATOR_SEED");
    seed(given ? std::strtoull(given, nullptr, 10) : 0);
  }
  running_capability = capability();
  launch.body = body;
  launch.data = data;
  launch.error.clear();
  gridDim = grid;
  blockDim = block;
  begin_shared_memory(shared_bytes);
  std::vector<unsigned> order(grid.x);
  std::iota(order.begin(), order.end(), 0);
  for (unsigned i = grid.x; i > 0 && launch.error.empty(); --i) {
    std::swap(order[i - 1], order[random_below(i)]);
    blockIdx.x = order[i - 1];
    prepare_block(block.x * block.y * block.z);
    run_block();
    if (!launch.error.empty()) {
      launch.error = "CUDA emulator: block " + std::to_string(blockIdx.x) + ": " + launch.error;
    }
  }
  end_shared_memory();
  if (!launch.error.empty()) {
    launch.threads.clear();  // their fibers hold half-run threads: unmapped, not unwound
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
  for (;;) self().fiber->suspend();
}

void require_capability(int least, const char* instruction) {
  if (running_capability >= least) return;
  fail("%s needs compute capability %d.%d, the device has %d.%d", instruction, least / 10,
       least % 10, running_capability / 10, running_capability % 10);
}

unsigned thread_number() { return launch.current; }

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

void barrier_arrive(int id, int threads) {
  if (id < 0 || id > 15) fail("barrier %d: there are barriers 0 to 15", id);
  if (threads % static_cast<int>(kWarpSize) != 0) {
    fail("barrier %d: %d threads are no whole warps", id, threads);
  }
  Barrier& barrier = launch.barriers[id];
  if (barrier.arrived > 0 && barrier.expected != threads) {
    fail("barrier %d: called for %d and for %d threads", id, barrier.expected, threads);
  }
  barrier.expected = threads;
  ++barrier.arrived;
  check_barrier(id);
}

void barrier_sync(int id, int threads) {
  static const char* const kNames[16] = {"__syncthreads", "barrier 1",  "barrier 2",  "barrier 3",
                                         "barrier 4",     "barrier 5",  "barrier 6",  "barrier 7",
                                         "barrier 8",     "barrier 9",  "barrier 10", "barrier 11",
                                         "barrier 12",    "barrier 13", "barrier 14", "barrier 15"};
  self().state = State::kBarrier;
  self().barrier = id;
  unready(launch.current);
  barrier_arrive(id, threads);  // the last one becomes ready here
  self().waits_for = kNames[id];
  self().fiber->suspend();
}

bool barrier_or(bool predicate) {
  if (predicate) launch.any = true;
  barrier_sync(0, 0);
  const bool any = launch.any;
  barrier_sync(0, 0);
  launch.any = false;
  barrier_sync(0, 0);
  return any;
}

void wait_until(const char* what, bool (*done)(uint64_t), uint64_t data) {
  if (random_below(4) == 0) yield();
  if (done(data)) return;
  self().done = done;
  self().data = data;
  suspend(State::kCondition, what);
}

void wake_waiters() {
  for (unsigned t = 0; t < launch.threads.size(); ++t) {
    Thread& thread = launch.threads[t];
    if (thread.state == State::kCondition && thread.done(thread.data)) make_ready(t);
  }
}

void warp_collective(const char* name, unsigned mask, void* arguments, Execute execute) {
  const unsigned lane = launch.current % kWarpSize, warp = launch.current / kWarpSize;
  Thread* lanes = &launch.threads[warp * kWarpSize];
  if ((mask >> lane & 1) == 0) fail("%s: the mask %08x lacks the calling lane", name, mask);
  if (const uint32_t gone = launch.absent[warp] & mask) {
    fail("%s: lane %d of the mask %08x has ended", name, __builtin_ctz(gone), mask);
  }
  const uint32_t waiting = launch.in_collective[warp] & mask;
  void* all[kWarpSize] = {};
  all[lane] = arguments;
  for (uint32_t rest = waiting; rest != 0; rest &= rest - 1) {
    const int other = __builtin_ctz(rest);
    if (lanes[other].mask != mask || std::strcmp(lanes[other].waits_for, name) != 0) {
      fail("the warp has diverged: lane %u is in %s with mask %08x, lane %d in %s with mask %08x",
           lane, name, mask, other, lanes[other].waits_for, lanes[other].mask);
    }
    all[other] = lanes[other].arguments;
  }
  if ((waiting | 1u << lane) != mask) {
    launch.in_collective[warp] |= 1u << lane;
    lanes[lane].mask = mask;
    lanes[lane].arguments = arguments;
    suspend(State::kCollective, name);
    return;
  }
  execute(all, mask);
  for (uint32_t rest = waiting; rest != 0; rest &= rest - 1) {
    make_ready(warp * kWarpSize + __builtin_ctz(rest));
  }
  yield();
}

void warpgroup_collective(const char* name, void* arguments, ExecuteWarpgroup execute) {
  const unsigned first = launch.current / kWarpgroupSize * kWarpgroupSize;
  void* all[kWarpgroupSize] = {};
  if (first + kWarpgroupSize > launch.threads.size()) fail("%s: not a whole warpgroup", name);
  bool complete = true;
  for (unsigned t = first; t < first + kWarpgroupSize; ++t) {
    const Thread& thread = launch.threads[t];
    if (t == launch.current) {
      all[t - first] = arguments;
    } else if (thread.state == State::kEnded) {
      fail("%s: thread %u of the warpgroup has ended", name, t);
    } else if (thread.state != State::kWarpgroup) {
      complete = false;
    } else if (std::strcmp(thread.waits_for, name) != 0) {
      fail("the warpgroup has diverged: thread %u is in %s, thread %u in %s", launch.current, name,
           t, thread.waits_for);
    } else {
      all[t - first] = thread.arguments;
    }
  }
  if (!complete) {
    self().arguments = arguments;
    suspend(State::kWarpgroup, name);
    return;
  }
  execute(all, first);
  for (unsigned t = first; t < first + kWarpgroupSize; ++t) make_ready(t);
  yield();
}

}  // namespace emulator
