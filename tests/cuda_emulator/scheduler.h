// What runs a block: its threads and whom they wait for. block.cpp schedules, waiting.cpp waits.
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

extern Launch launch;

unsigned random_below(unsigned n);
void make_ready(unsigned thread);
// Puts the running thread to sleep until someone makes it ready.
void suspend(State state, const char* waits_for);
// Lets the threads at a barrier go on if all that it expects have arrived, and returns that.
bool check_barrier(int id);

}  // namespace emulator
