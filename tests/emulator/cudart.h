// What tests ask of the stand-in CUDA runtime beside CUDA's own functions.
#pragma once

#include <cstdint>
#include <string>

#include "device.h"
#include "machine.h"

namespace emulator {

// Makes it the current device. Devices that differ have numbers of their own, so that whatever a
// launcher remembers of one is not taken for another's.
void set_device(const Device& device);

// Each launch gets a seed of its own, derived from options.seed.
void set_options(const Options& options);

// Runs a kernel at once, on no stream, with these very options; it is counted as others are.
void run(const Launch& launch, const Options& options);

// Since the last reset:
const decltype(Machine::traffic)& traffic();
uint64_t launches();         // that have run to their end
std::string last_failure();  // in words, the last; or nothing

// Forgets what is queued, failed and counted. What was said of devices and kernels stays, since
// launchers remember having said it.
void reset();

}  // namespace emulator
