// A ring of stages in shared memory, as the kernels for sm_90a use it: one thread has stages filled
// by asynchronous copies, and consumers, of which each is a warpgroup, multiply what arrives. For
// each stage there are two mbarriers: `full`, whose phases end when a stage's bytes have arrived,
// and `empty`, when all consumers have done with them.
#pragma once

#include "ptx_sm90a.cuh"
#include "stages_sm90a.h"

namespace green_kernels {

constexpr int kWarpgroup = 128;  // threads

// A stage of the ring, and the parity of the phase that its mbarrier `full` is in.
template <int kStages>
struct Turn {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void next() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// The mbarriers of a ring, which lie at `base`.
template <int kStages>
struct Ring {
  uint32_t base;

  __device__ __forceinline__ uint32_t full(int stage) const {
    return base + stage * kMbarrierBytes;
  }
  __device__ __forceinline__ uint32_t empty(int stage) const { return full(kStages + stage); }

  // By one thread; then all threads that use it synchronise, of the cluster too.
  __device__ __forceinline__ void initialise(int consumers) const {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(full(stage), 1);
      ptx::mbarrier_init(empty(stage), consumers);
    }
    ptx::fence_mbarrier_init();
  }

  // The producer's, until the stage may be filled: in the first round it waits for the phase before
  // the first, and so not at all.
  __device__ __forceinline__ void wait_until_empty(const Turn<kStages>& turn) const {
    ptx::mbarrier_wait(empty(turn.stage), turn.parity ^ 1);
  }
  __device__ __forceinline__ void wait_until_full(const Turn<kStages>& turn) const {
    ptx::mbarrier_wait(full(turn.stage), turn.parity);
  }
};

}  // namespace green_kernels
