// What a block has under way beside its threads: copies into shared memory and matrix products.
#pragma once

#include <string>

namespace emulator {

void begin_async(unsigned threads);  // of a block
std::string end_async();             // of a block: an error, or nothing
bool deliver_one();                  // lets one bulk copy arrive; whether there was any
void deliver_sometimes();

}  // namespace emulator
