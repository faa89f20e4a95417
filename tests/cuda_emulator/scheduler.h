// The state of a running cluster of blocks: its threads and what each one waits for. block.cpp
// schedules the threads, and waiting.cpp implements the waits.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "block.h"
#include "fiber.h"

namespace emulator {

enum class State : uint8_t { kReady, kBarrier, kCollective, kWarpgroup, kCondition, kEnded };

struct Thread {
  State state;
  std::unique_ptr<Fiber> fiber;  // lives from the thread's first to its last instruction
  const char* waits_for;
  int barrier;
  unsigned mask;  // mask of a collective
  void* arguments;
  bool (*done)(uint64_t);
  uint64_t data;
};

struct Barrier {
  int expected = 0;
  int arrived = 0;
};

// The current launch. The mutex of run_grid allows only one.
struct Launch {
  void (*body)(void*);
  void* data;
  unsigned cluster;      // blocks per cluster
  unsigned per_block;    // threads
  unsigned first_block;  // of the running cluster
  std::vector<Thread> threads;
  unsigned live[kMaxCluster];  // threads per block that have not ended
  unsigned current;
  uint32_t ready_warps;
  uint32_t ready[kMaxThreads / kWarpSize];
  uint32_t in_collective[kMaxThreads / kWarpSize];
  uint32_t absent[kMaxThreads / kWarpSize];  // lanes that have ended or lie beyond the block
  std::map<int, Barrier> barriers;           // by barrier_key(), or kClusterBarrier
  bool any[kMaxCluster];                     // results of __syncthreads_or
  bool by_warp;  // run one warp as far as possible, or any thread in turn
  std::vector<unsigned> warp_order;
  std::string error;
};

extern Launch launch;

constexpr int kBarriers = 16;  // per block
constexpr int kClusterBarrier = -1;
inline unsigned rank_of(unsigned thread) { return thread / launch.per_block; }
inline int barrier_key(unsigned rank, int id) { return static_cast<int>(rank) * kBarriers + id; }

unsigned random_below(unsigned n);
void make_ready(unsigned thread);
// Suspends the running thread until another one makes it ready.
void suspend(State state, const char* waits_for);
// Releases the threads at a barrier if all expected ones have arrived. Returns whether they had.
bool check_barrier(int key);

}  // namespace emulator
