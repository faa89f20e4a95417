// Barriers, conditions and collectives: which threads wait, and what wakes them.
#include <cstring>

#include "scheduler.h"

namespace emulator {
namespace {

Thread& self() { return launch.threads[launch.current]; }

void release(int key) {
  for (unsigned t = 0; t < launch.threads.size(); ++t) {
    Thread& thread = launch.threads[t];
    if (thread.state == State::kBarrier && thread.barrier == key) make_ready(t);
  }
  launch.barriers.erase(key);
}

int live_threads(int key) {
  if (key != kClusterBarrier) return static_cast<int>(launch.live[key / kBarriers]);
  unsigned live = 0;
  for (unsigned rank = 0; rank < launch.cluster; ++rank) live += launch.live[rank];
  return static_cast<int>(live);
}

void wait_at(int key, const char* name, bool is_complete) {
  if (is_complete) {
    yield();
  } else {
    self().barrier = key;
    suspend(State::kBarrier, name);
  }
}

// Counts an arrival. Returns whether it completes the barrier.
bool arrive(int id, int threads) {
  if (id < 0 || id >= kBarriers) fail("barrier %d: valid barriers are 0 to 15", id);
  if (threads % static_cast<int>(kWarpSize) != 0) {
    fail("barrier %d: %d threads are not whole warps", id, threads);
  }
  const int key = barrier_key(block_rank(), id);
  Barrier& barrier = launch.barriers[key];
  if (barrier.arrived > 0 && barrier.expected != threads) {
    fail("barrier %d: called for %d and for %d threads", id, barrier.expected, threads);
  }
  barrier.expected = threads;
  ++barrier.arrived;
  return check_barrier(key);
}

}  // namespace

bool check_barrier(int key) {
  const Barrier& barrier = launch.barriers[key];
  const int expected = barrier.expected ? barrier.expected : live_threads(key);
  if (barrier.arrived < expected) return false;
  release(key);
  return true;
}

void barrier_sync(int id, int threads) {
  static const char* const kNames[16] = {"__syncthreads", "barrier 1",  "barrier 2",  "barrier 3",
                                         "barrier 4",     "barrier 5",  "barrier 6",  "barrier 7",
                                         "barrier 8",     "barrier 9",  "barrier 10", "barrier 11",
                                         "barrier 12",    "barrier 13", "barrier 14", "barrier 15"};
  const bool is_complete = arrive(id, threads);
  wait_at(barrier_key(block_rank(), id), kNames[id], is_complete);
}

void cluster_sync() {
  require_capability(90, "barrier.cluster");
  ++launch.barriers[kClusterBarrier].arrived;
  wait_at(kClusterBarrier, "cluster_sync", check_barrier(kClusterBarrier));
}

bool barrier_or(bool predicate) {
  bool& shared = launch.any[block_rank()];
  if (predicate) shared = true;
  barrier_sync(0, 0);
  const bool any = shared;
  barrier_sync(0, 0);
  shared = false;
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
