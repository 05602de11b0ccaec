// What the decoder of "cp" needs of bulk copies.
#pragma once

#include "program.h"

namespace emulator {

// Decodes cp.async.bulk and cp.reduce.async.bulk in all their forms; false where it is neither.
bool decode_bulk_copy(Modifiers& modifiers, Instruction& instruction);

}  // namespace emulator
