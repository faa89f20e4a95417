// Implements async.h: each copy keeps its source until a wait, or until the scheduler delivers it.
// The target is filled with NaN meanwhile.
#include "async.h"

#include <cstring>
#include <deque>
#include <vector>

#include "block.h"
#include "scheduler.h"

namespace emulator {
namespace {

constexpr const char* kEndedEarly = "the block has ended before a bulk copy into its memory";
constexpr uint8_t kInFlight = 0xFF;  // a target holds this until its data arrives: NaN

struct Copy {
  uint8_t* to;
  const void* from;
  unsigned bytes;
};

struct ThreadCopies {
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

// The 8 bytes of an mbarrier.
struct Mbarrier {
  uint64_t phase : 1;
  uint64_t pending : 18;  // arrivals still missing in this phase
  uint64_t arrivals : 18;
  int64_t bytes : 22;  // announced bytes that have not arrived yet
  uint64_t mark : 5;   // distinguishes a barrier from garbage
};
static_assert(sizeof(Mbarrier) == 8);
constexpr uint64_t kMark = 0b10110;

struct BulkCopy {
  Copy copy;
  Mbarrier* barrier;
  unsigned rank;  // of the block that receives it
};

std::vector<ThreadCopies> thread_copies(kMaxThreads);
std::vector<BulkCopy> bulk_copies;

Mbarrier& mbarrier(uint32_t address) {
  auto* barrier = reinterpret_cast<Mbarrier*>(shared_pointer(address, 8, 8));
  if (barrier->mark != kMark) fail("no mbarrier was initialized at shared address %#x", address);
  return *barrier;
}

void end_phase_if_complete(Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.phase ^= 1;
  barrier.pending = barrier.arrivals;
  wake_waiters();
}

void deliver(size_t index) {
  const BulkCopy bulk = bulk_copies[index];
  bulk_copies.erase(bulk_copies.begin() + static_cast<std::ptrdiff_t>(index));
  if (launch.live[bulk.rank] == 0) {
    launch.error = kEndedEarly;
    return;
  }
  std::memcpy(bulk.copy.to, bulk.copy.from, bulk.copy.bytes);
  std::memcpy(async_view(bulk.copy.to), bulk.copy.from, bulk.copy.bytes);
  bulk.barrier->bytes -= bulk.copy.bytes;
  end_phase_if_complete(*bulk.barrier);
}

void start_bulk(uint32_t shared, const void* global, int bytes, uint32_t barrier, unsigned rank) {
  uint8_t* to = shared_pointer(shared, static_cast<size_t>(bytes), 16);
  std::memset(to, kInFlight, static_cast<size_t>(bytes));
  std::memset(async_view(to), kInFlight, static_cast<size_t>(bytes));
  bulk_copies.push_back({{to, global, static_cast<unsigned>(bytes)}, &mbarrier(barrier), rank});
}

void check_bulk(const void* global, int bytes) {
  require_capability(90, "cp.async.bulk");
  if (bytes <= 0 || bytes % 16 != 0) fail("cp.async.bulk of %d bytes: not a multiple of 16", bytes);
  if (reinterpret_cast<uintptr_t>(global) % 16) fail("cp.async.bulk from %p: not aligned", global);
}

}  // namespace

void begin_copies(unsigned threads) {
  for (unsigned t = 0; t < threads; ++t) {
    if (thread_copies[t].open.empty() && thread_copies[t].groups.empty()) continue;
    thread_copies[t] = {};
  }
  bulk_copies.clear();
}

std::string end_copies() { return bulk_copies.empty() ? "" : kEndedEarly; }

bool deliver_one() {
  if (bulk_copies.empty()) return false;
  deliver(random_bits() % bulk_copies.size());
  return true;
}

void deliver_sometimes() {
  if (!bulk_copies.empty() && random_bits() % 16 == 0) deliver_one();
}

void copy_async(uint32_t shared, const void* global, unsigned bytes) {
  require_capability(80, "cp.async");
  if (reinterpret_cast<uintptr_t>(global) % bytes) fail("cp.async from %p: not aligned", global);
  uint8_t* to = shared_pointer(shared, bytes, bytes);
  std::memset(to, kInFlight, bytes);
  thread_copies[thread_number()].open.push_back({to, global, bytes});
}

void commit_copies() {
  ThreadCopies& copies = thread_copies[thread_number()];
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}

void wait_copies(int pending) {
  auto& groups = thread_copies[thread_number()].groups;
  while (groups.size() > static_cast<size_t>(pending)) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    groups.pop_front();
  }
}

void mbarrier_init(uint32_t address, int arrivals) {
  require_capability(80, "mbarrier");
  if (arrivals < 1 || arrivals >= 1 << 18) fail("mbarrier.init: %d arrivals", arrivals);
  const auto count = static_cast<uint64_t>(arrivals);
  *reinterpret_cast<Mbarrier*>(shared_pointer(address, 8, 8)) = {0, count, count, 0, kMark};
}

void mbarrier_arrive(uint32_t address, int expected_bytes) {
  Mbarrier& barrier = mbarrier(address);
  barrier.bytes += expected_bytes;
  if (barrier.pending == 0) fail("mbarrier: more arrivals in a phase than it was initialized for");
  barrier.pending -= 1;
  end_phase_if_complete(barrier);
  sometimes_yield();
}

void mbarrier_wait(uint32_t address, int parity) {
  require_capability(90, "mbarrier.try_wait");
  // The pointer is a multiple of 8, which leaves a bit for the parity.
  const auto data = reinterpret_cast<uint64_t>(&mbarrier(address));
  wait_until(
      "mbarrier_wait",
      [](uint64_t data) {
        const auto* barrier = reinterpret_cast<const Mbarrier*>(data & ~uint64_t{1});
        return barrier->phase != (data & 1);
      },
      data | static_cast<uint64_t>(parity & 1));
}

void copy_bulk(uint32_t shared, const void* global, int bytes, uint32_t barrier) {
  check_bulk(global, bytes);
  start_bulk(shared, global, bytes, barrier, block_rank());
}

void copy_bulk_multicast(uint32_t shared, const void* global, int bytes, uint32_t barrier,
                         unsigned ranks) {
  check_bulk(global, bytes);
  if (ranks == 0 || ranks >> launch.cluster) fail("cp.async.bulk to the blocks %#x", ranks);
  for (unsigned rank = 0; rank < launch.cluster; ++rank) {
    if ((ranks >> rank & 1) == 0) continue;
    start_bulk(map_to_block(shared, rank), global, bytes, map_to_block(barrier, rank), rank);
  }
}

}  // namespace emulator
