// Asynchronous operations of a block: copies into shared memory and the barriers that they
// complete. A copy arrives as late as the PTX ISA allows, and its target holds NaN until then.
#pragma once

#include <cstdint>
#include <string>

namespace emulator {

// For the scheduler.
void begin_copies(unsigned threads);  // at the start of a block
std::string end_copies();             // at the end of a block; returns an error or nothing
bool deliver_one();                   // lets one bulk copy arrive; returns whether there was one
void deliver_sometimes();

// Called by kernels, through the PTX functions of include/ptx.cuh: cp.async, mbarrier,
// cp.async.bulk.
void copy_async(uint32_t shared, const void* global, unsigned bytes);
void commit_copies();
void wait_copies(int pending);

void mbarrier_init(uint32_t barrier, int arrivals);
void mbarrier_arrive(uint32_t barrier, int expected_bytes);  // also in other blocks of the cluster
void mbarrier_wait(uint32_t barrier, int parity);

void copy_bulk(uint32_t shared, const void* global, int bytes, uint32_t barrier);
// Copies to the blocks whose bits are set in `ranks`. Each copy arrives at its own time.
void copy_bulk_multicast(uint32_t shared, const void* global, int bytes, uint32_t barrier,
                         unsigned ranks);

}  // namespace emulator
