// Implements fibers: a switch of stacks in assembly, for x86-64 and AArch64.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

// void occvae_switch_stack(void** save, void* load): saves the callee-saved registers and the stack
// pointer, then continues at the place where `load` was saved.
#if defined(__x86_64__)
asm(R"(
.text
.globl occvae_switch_stack
.hidden occvae_switch_stack
.type occvae_switch_stack, @function
occvae_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size occvae_switch_stack, .-occvae_switch_stack
)");
constexpr int kSavedWords = 6;     // below the return address
constexpr int kReturnAddress = 6;  // its index from the saved stack pointer
constexpr int kPadding = 1;        // at entry, the stack pointer is 8 below a multiple of 16
#elif defined(__aarch64__)
asm(R"(
.text
.globl occvae_switch_stack
.hidden occvae_switch_stack
.type occvae_switch_stack, %function
occvae_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size occvae_switch_stack, .-occvae_switch_stack
)");
constexpr int kSavedWords = 20;
constexpr int kReturnAddress = 11;
constexpr int kPadding = 0;
#else
#error "the CUDA emulator switches stacks on x86-64 and AArch64 only"
#endif

extern "C" void occvae_switch_stack(void** save, void* load);

namespace emulator {

namespace {
constexpr size_t kGuardBytes = 64 * 1024;  // a multiple of any page size
}

Fiber::Fiber() {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  stack_ = static_cast<char*>(memory);
  mprotect(stack_, kGuardBytes, PROT_NONE);
}

Fiber::~Fiber() { munmap(stack_, kGuardBytes + kStackBytes); }

void Fiber::prepare(void (*entry)()) {
  auto* top = reinterpret_cast<uint64_t*>(stack_ + kGuardBytes + kStackBytes);
  uint64_t* saved = top - 2 * kPadding - kSavedWords;
  for (uint64_t* word = saved; word < top; ++word) *word = 0;
  saved[kReturnAddress] = reinterpret_cast<uint64_t>(entry);
  inside_ = saved;
}

void Fiber::resume() { occvae_switch_stack(&outside_, inside_); }

void Fiber::suspend() { occvae_switch_stack(&inside_, outside_); }

}  // namespace emulator
