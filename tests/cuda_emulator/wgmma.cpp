// Emulates wgmma. By chance, a group of products runs at once or as late as allowed, and its
// accumulators are NaN until the wait that ends the group. This exposes a kernel that reads results
// before they exist, and one that overwrites operands still in use.
#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "async.h"
#include "block.h"
#include "operands.h"
#include "tensor_cores.h"

namespace emulator {
namespace {

constexpr int kRows = 64, kDepth = 16, kWarps = 4;

// The registers d of a warpgroup and the values that they will hold.
struct Accumulators {
  std::array<float*, kWarpgroupSize> registers;
  int columns = 0;
  std::vector<float> value;              // [64][columns]
  std::array<bool, kWarps> in_flight{};  // per warp: `value` is newer than the registers

  int row(int thread, int i) const {
    return 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
  }
  int column(int thread, int i) const { return 8 * (i / 4) + 2 * (thread % 4) + i % 2; }
  float& at(int thread, int i) {
    return value[static_cast<size_t>(row(thread, i) * columns + column(thread, i))];
  }
};

struct Product {
  Wgmma instruction;
  std::vector<uint32_t> a_registers;  // [128][4]
  std::shared_ptr<Accumulators> d;
  int group;
  bool done = false;
};

struct Warpgroup {
  std::deque<Product> products;
  std::map<float*, std::shared_ptr<Accumulators>> accumulators;  // by thread 0's registers
  std::array<int, kWarps> groups{};                              // groups committed per warp
  std::array<int, kWarps> ended{};  // groups before this one have ended, per warp
  std::array<bool, kWarps> fenced{};
  bool at_once = false;  // whether products of the newest group run at once
};

std::array<Warpgroup, kMaxThreads / kWarpgroupSize> warpgroups;

bool used;  // whether this block used wgmma

Warpgroup& own_warpgroup() { return warpgroups[thread_number() / kWarpgroupSize]; }
unsigned own_warp() { return thread_number() % kWarpgroupSize / kWarpSize; }

// Returns the address of row r, columns 8 h to 8 h + 7 of the 16 columns that a K-major descriptor
// with 128-byte swizzle describes.
const uint8_t* described(uint64_t descriptor, int r, int h) {
  const auto start = static_cast<uint32_t>(descriptor & 0x3FFF) << 4;
  const auto group_stride = static_cast<uint32_t>(descriptor >> 32 & 0x3FFF) << 4;
  const uint32_t plain = start + static_cast<uint32_t>(r / 8) * group_stride +
                         static_cast<uint32_t>(r % 8) * 128 + static_cast<uint32_t>(h) * 16;
  const uint32_t swizzled = plain ^ (plain >> 7 & 7) << 4;
  return async_view(shared_pointer(swizzled, 16, 16));
}

void check_descriptor(const char* name, uint64_t descriptor) {
  constexpr uint64_t kKnown = 0x3FFF | uint64_t{0x3FFF} << 16 | uint64_t{0x3FFF} << 32;
  const auto start = static_cast<uint32_t>(descriptor & 0x3FFF) << 4;
  const auto bits = static_cast<unsigned long long>(descriptor);
  if ((descriptor & ~kKnown) != uint64_t{1} << 62) {
    fail("wgmma: descriptor %s, %#llx, is not one of 128-byte swizzle and base offset 0", name,
         bits);
  }
  if (start >> 7 & 7) {
    fail("wgmma: descriptor %s, %#llx, begins inside a group of 8 rows of 1024 bytes", name, bits);
  }
  if (start % 32 != 0) fail("wgmma: descriptor %s, %#llx, begins inside 16 columns", name, bits);
}

void load_described(bool bf16, uint64_t descriptor, int rows, float* out) {  // [rows][16]
  for (int r = 0; r < rows; ++r) {
    for (int h = 0; h < 2; ++h) {
      uint32_t pairs[4];
      std::memcpy(pairs, described(descriptor, r, h), 16);
      for (int i = 0; i < 4; ++i) unpack(bf16, pairs[i], out + kDepth * r + 8 * h + 2 * i);
    }
  }
}

void load_registers(bool bf16, const std::vector<uint32_t>& registers, float* out) {
  for (int t = 0; t < static_cast<int>(kWarpgroupSize); ++t) {
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * (t / 32) + t % 32 / 4 + 8 * (i % 2);
      const int column = 2 * (t % 4) + 8 * (i / 2);
      unpack(bf16, registers[static_cast<size_t>(4 * t + i)], out + kDepth * row + column);
    }
  }
}

void run(Product& product) {
  const Wgmma& w = product.instruction;
  float a[kRows * kDepth], b[256 * kDepth], transposed[kDepth * 256];
  if (product.a_registers.empty()) {
    load_described(w.bf16, w.a, kRows, a);
  } else {
    load_registers(w.bf16, product.a_registers, a);
  }
  load_described(w.bf16, w.b, w.columns, b);
  for (int n = 0; n < w.columns; ++n) {
    for (int k = 0; k < kDepth; ++k) transposed[k * w.columns + n] = b[n * kDepth + k];
  }
  for (int row = 0; row < kRows; ++row) {
    float* d = &product.d->value[static_cast<size_t>(row * w.columns)];
    if (!w.accumulate) std::fill(d, d + w.columns, 0.0f);
    for (int k = 0; k < kDepth; ++k) {
      const float factor = a[row * kDepth + k];
      const float* column = transposed + k * w.columns;
      for (int n = 0; n < w.columns; ++n) d[n] += factor * column[n];
    }
  }
  product.done = true;
}

void run_until(Warpgroup& group, int end) {
  for (Product& product : group.products) {
    if (product.group < end && !product.done) run(product);
  }
}

// Takes over the registers of warps that have no product in flight, and fills them with NaN.
void take_registers(Accumulators& d, void* const* all, int columns) {
  const bool busy = std::any_of(d.in_flight.begin(), d.in_flight.end(), [](bool x) { return x; });
  if (busy && d.columns != columns) fail("wgmma: products of two sizes have the same registers");
  d.columns = columns;
  d.value.resize(static_cast<size_t>(kRows * columns));
  for (int t = 0; t < static_cast<int>(kWarpgroupSize); ++t) {
    if (d.in_flight[static_cast<size_t>(t / 32)]) continue;
    float* registers = static_cast<const Wgmma*>(all[t])->d;
    d.registers[static_cast<size_t>(t)] = registers;
    for (int i = 0; i < columns / 2; ++i) {
      d.at(t, i) = registers[i];
      registers[i] = NAN;
    }
  }
  d.in_flight.fill(true);
}

void issue(void* const* all, unsigned first_thread) {
  Warpgroup& group = warpgroups[first_thread / kWarpgroupSize];
  const Wgmma& w = *static_cast<const Wgmma*>(all[0]);
  Product product{w, {}, nullptr, group.groups[0]};
  for (size_t warp = 0; warp < kWarps; ++warp) {
    if (!group.fenced[warp]) fail("wgmma: no wgmma_fence since the start or the last wgmma_wait");
    if (group.groups[warp] != group.groups[0]) fail("wgmma: not all warps have committed alike");
  }
  for (unsigned t = 0; t < kWarpgroupSize; ++t) {
    const Wgmma& other = *static_cast<const Wgmma*>(all[t]);
    if (other.a != w.a || other.b != w.b || other.accumulate != w.accumulate ||
        other.bf16 != w.bf16 || other.columns != w.columns ||
        !other.a_registers != !w.a_registers) {
      fail("wgmma: thread %u of the warpgroup has operands that differ from thread 0", t);
    }
    if (other.a_registers) {
      product.a_registers.insert(product.a_registers.end(), other.a_registers,
                                 other.a_registers + 4);
    }
  }
  if (!w.a_registers) check_descriptor("a", w.a);
  check_descriptor("b", w.b);
  auto& d = group.accumulators[w.d];
  if (!d) d = std::make_shared<Accumulators>();
  take_registers(*d, all, w.columns);
  product.d = d;
  if (group.products.empty() || group.products.back().group < product.group) {
    group.at_once = random_bits() >> 63;
  }
  group.products.push_back(std::move(product));
  if (group.at_once) run_until(group, group.groups[0] + 1);
}

// Returns to a warp the registers of the groups before `end`.
void finish(Warpgroup& group, unsigned warp, int end) {
  run_until(group, end);
  group.ended[warp] = end;
  for (auto& [key, d] : group.accumulators) {
    if (!d->in_flight[warp]) continue;
    const bool later = std::any_of(
        group.products.begin(), group.products.end(),
        [&, d = d](const Product& product) { return product.d == d && product.group >= end; });
    if (later) continue;
    for (int t = 32 * static_cast<int>(warp); t < 32 * static_cast<int>(warp) + 32; ++t) {
      for (int i = 0; i < d->columns / 2; ++i)
        d->registers[static_cast<size_t>(t)][i] = d->at(t, i);
    }
    d->in_flight[warp] = false;
  }
  const int all_ended = *std::min_element(group.ended.begin(), group.ended.end());
  while (!group.products.empty() && group.products.front().group < all_ended) {
    group.products.pop_front();
  }
}

void warp_in_step(const char* name) {
  warp_collective(name, 0xFFFFFFFF, nullptr, [](void* const*, unsigned) {});
}

}  // namespace

void wgmma(const Wgmma& instruction) {
  require_capability(90, "wgmma");
  used = true;
  if (instruction.columns != 128 && instruction.columns != 256) {
    fail("wgmma of %d columns is not emulated", instruction.columns);
  }
  Wgmma copy = instruction;
  warpgroup_collective("wgmma", &copy, issue);
}

void wgmma_fence() {
  used = true;
  own_warpgroup().fenced[own_warp()] = true;
  warp_in_step("wgmma.fence");
}

void wgmma_commit() {
  used = true;
  warp_collective("wgmma.commit_group", 0xFFFFFFFF, nullptr,
                  [](void* const*, unsigned) { ++own_warpgroup().groups[own_warp()]; });
}

void wgmma_wait(int pending, const float* d) {
  struct Arguments {
    int pending;
  } arguments{pending};
  warp_collective("wgmma.wait_group", 0xFFFFFFFF, &arguments, [](void* const* all, unsigned) {
    Warpgroup& group = own_warpgroup();
    const int pending = static_cast<const Arguments*>(all[0])->pending;
    group.fenced[own_warp()] = false;
    finish(group, own_warp(), std::max(0, group.groups[own_warp()] - pending));
  });
  if (!d) return;
  for (const auto& [key, accumulators] : own_warpgroup().accumulators) {
    const unsigned thread = thread_number() % kWarpgroupSize;
    if (accumulators->in_flight[own_warp()] && accumulators->registers[thread] == d) {
      fail("wgmma_wait<%d>(d): d is in a group that this call does not wait for", pending);
    }
  }
}

void begin_wgmma() {
  if (!used) return;
  used = false;
  for (Warpgroup& group : warpgroups) group = {};
}

std::string end_wgmma() {
  for (const Warpgroup& group : warpgroups) {
    if (!group.products.empty()) return "the block has ended before a wgmma that nobody waited for";
  }
  return {};
}

}  // namespace emulator
