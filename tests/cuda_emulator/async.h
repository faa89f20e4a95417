// What a block has under way beside its threads: copies into shared memory and their barriers.
#pragma once

#include <cstdint>
#include <string>

namespace emulator {

// For the scheduler.
void begin_copies(unsigned threads);  // of a block
std::string end_copies();             // of a block: an error, or nothing
bool deliver_one();                   // lets one bulk copy arrive; whether there was any
void deliver_sometimes();

// For kernels, by their PTX names: cp.async, mbarrier, cp.async.bulk.
void copy_async(uint32_t shared, const void* global, unsigned bytes);
void commit_copies();
void wait_copies(int pending);

void mbarrier_init(uint32_t barrier, int arrivals);
void mbarrier_arrive(uint32_t barrier, int expected_bytes);
void mbarrier_wait(uint32_t barrier, int parity);

void copy_bulk(uint32_t shared, const void* global, int bytes, uint32_t barrier);

}  // namespace emulator
