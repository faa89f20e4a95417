// Fibers: threads that run one at a time and switch only on request.
#pragma once

#include <cstddef>

namespace emulator {

// A fiber owns a stack with a guard page below it.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next resume() call entry(), which must never return. It must end with suspend().
  void prepare(void (*entry)());
  // Runs the fiber until it suspends. Called outside fibers.
  void resume();
  // Returns to the resume() that runs this fiber. Called inside it.
  void suspend();

 private:
  static constexpr size_t kStackBytes = 128 * 1024;
  char* stack_;
  void* inside_ = nullptr;  // saved stack pointers
  void* outside_ = nullptr;
};

}  // namespace emulator
