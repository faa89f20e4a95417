// Fibers: threads that run one at a time and switch only where they ask to.
#pragma once

#include <cstddef>

namespace emulator {

// A stack with a guard page below it; freed with the fiber.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry(), which must never return but end with suspend().
  void prepare(void (*entry)());
  // Runs the fiber until it suspends; called outside of fibers.
  void resume();
  // Goes back to the resume() that runs this fiber; called in it.
  void suspend();

 private:
  static constexpr size_t kStackBytes = 128 * 1024;
  char* stack_;
  void* inside_ = nullptr;  // saved stack pointers
  void* outside_ = nullptr;
};

}  // namespace emulator
