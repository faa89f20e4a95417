// Implements shared memory: its addresses, its garbage at the start of a block, and the check of
// the bytes after its end.
#include "shared_memory.h"

#include <link.h>
#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "block.h"
#include "scheduler.h"

namespace emulator {
namespace {

constexpr uint32_t kDynamicBase = 9 * 1024;  // aligned as declared, and no further
constexpr uint32_t kStaticBase = 0x40000;    // beyond what a matrix descriptor can address
constexpr size_t kCapacity = 228 * 1024;
constexpr size_t kTail = 1024;  // after the dynamic memory, to detect writes past its end
constexpr uint8_t kTailByte = 0x5C;
constexpr size_t kBlock = kCapacity + kTail;  // bytes per block of a cluster
constexpr uint32_t kRankShift = 24;  // addresses in blocks of the cluster: rank + 1, address

uint8_t* dynamic;       // kBlock bytes per block, aligned to 1024 bytes and no further
uint8_t* asynchronous;  // the same bytes as seen by the asynchronous units
size_t dynamic_bytes;
uint8_t* static_begin;
size_t static_bytes;
uint8_t static_garbage;

uint8_t* dynamic_of(unsigned rank) { return dynamic + rank * kBlock; }

void allocate() {
  constexpr size_t kBytes = kMaxCluster * kBlock + kDynamicBase;
  auto map = [] {
    return static_cast<uint8_t*>(
               mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) +
           kDynamicBase;
  };
  dynamic = map();
  asynchronous = map();
}

// Finds the thread-local variables of the module that contains this function.
int find_static(dl_phdr_info* info, size_t, void*) {
  const auto here = reinterpret_cast<uintptr_t>(&find_static);
  bool ours = false;
  size_t bytes = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    if (segment.p_type == PT_LOAD && here >= begin && here < begin + segment.p_memsz) ours = true;
    if (segment.p_type == PT_TLS) bytes = segment.p_memsz;
  }
  if (!ours) return 0;
  static_begin = static_cast<uint8_t*>(info->dlpi_tls_data);
  static_bytes = static_begin ? bytes : 0;
  return 1;
}

// Forces the allocation of the calling host thread's copy of the variables.
thread_local uint8_t touched;

}  // namespace

void begin_shared_memory(size_t bytes) {
  if (!dynamic) allocate();
  dynamic_bytes = bytes;
  *const_cast<volatile uint8_t*>(&touched) = 0;
  dl_iterate_phdr(find_static, nullptr);
}

void fill_shared_memory(uint8_t garbage) {
  static_garbage = garbage;
  std::memset(static_begin, garbage, static_bytes);
  if (dynamic_bytes == 0) return;
  for (unsigned rank = 0; rank < launch.cluster; ++rank) {
    std::memset(dynamic_of(rank), garbage, dynamic_bytes);
    std::memset(async_view(dynamic_of(rank)), garbage, dynamic_bytes);
    std::memset(dynamic_of(rank) + dynamic_bytes, kTailByte, kTail);
  }
}

std::string check_shared_memory() {
  for (size_t i = 0; launch.cluster > 1 && i < static_bytes; ++i) {
    if (static_begin[i] != static_garbage) return "static shared memory in a cluster";
  }
  if (dynamic_bytes == 0) return {};
  for (size_t i = 0; i < launch.cluster * kTail; ++i) {
    if (dynamic_of(i / kTail)[dynamic_bytes + i % kTail] != kTailByte) {
      return "a write past the end of the dynamic shared memory, " + std::to_string(dynamic_bytes) +
             " bytes, at byte " + std::to_string(dynamic_bytes + i % kTail);
    }
  }
  return {};
}

void end_shared_memory() { dynamic_bytes = 0; }

uint8_t* dynamic_shared() { return dynamic_of(block_rank()); }

uint32_t shared_address(const void* pointer) {
  const auto* p = static_cast<const uint8_t*>(pointer);
  const uint8_t* own = dynamic_shared();
  if (p >= own && p <= own + dynamic_bytes) return kDynamicBase + static_cast<uint32_t>(p - own);
  if (p >= static_begin && p < static_begin + static_bytes) {
    return kStaticBase + static_cast<uint32_t>(p - static_begin);
  }
  fail("shared_address: %p is not in shared memory", pointer);
}

uint32_t map_to_block(uint32_t address, unsigned rank) {
  if (rank >= launch.cluster) fail("mapa: the cluster has no block of rank %u", rank);
  return (rank + 1) << kRankShift | (address & ((1u << kRankShift) - 1));
}

uint8_t* shared_pointer(uint32_t address, size_t bytes, size_t alignment) {
  const unsigned mapped = address >> kRankShift;
  const unsigned rank = mapped ? mapped - 1 : block_rank();
  if (launch.live[rank] == 0) fail("shared memory of block rank %u, which has ended", rank);
  address &= (1u << kRankShift) - 1;
  if (address % alignment != 0) {
    fail("shared address %#x is not aligned to %zu bytes", address, alignment);
  }
  if (address >= kDynamicBase && address + bytes <= kDynamicBase + dynamic_bytes) {
    return dynamic_of(rank) + (address - kDynamicBase);
  }
  if (!mapped && address >= kStaticBase && address + bytes <= kStaticBase + static_bytes) {
    return static_begin + (address - kStaticBase);
  }
  fail("shared address %#x + %zu bytes is not in shared memory (%zu dynamic bytes from %#x)",
       address, bytes, dynamic_bytes, kDynamicBase);
}

uint8_t* async_view(uint8_t* pointer) {
  const bool is_dynamic = pointer >= dynamic && pointer < dynamic_of(launch.cluster);
  return is_dynamic ? asynchronous + (pointer - dynamic) : pointer;
}

void update_async_view() {
  std::memcpy(async_view(dynamic_shared()), dynamic_shared(), dynamic_bytes);
}

}  // namespace emulator
