// PTX of sm_90a, one wrapper per instruction, as ptx.cuh has those of sm_80: mbarriers, copies by
// tensor maps (TMA), products of warpgroups, clusters and their shared memory. Addresses in shared
// memory are those of ptx::shared_address.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "ptx.cuh"

namespace green_kernels {
namespace ptx {

// Makes an mbarrier whose phases end with `arrivals` arrivals, and with as many bytes as these
// expect. (mbarrier.init)
__device__ __forceinline__ void mbarrier_init(uint32_t mbarrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(mbarrier), "r"(arrivals) : "memory");
}

// Shows this thread's mbarrier_init to the cluster and to asynchronous copies, once it has
// synchronised with them. (membar / fence: fence.mbarrier_init)
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and lets the phase wait for `bytes` of asynchronous copies too. (mbarrier.arrive,
// mbarrier.expect_tx)
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t mbarrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(mbarrier), "r"(bytes)
               : "memory");
}

// (mbarrier.arrive)
__device__ __forceinline__ void mbarrier_arrive(uint32_t mbarrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(mbarrier) : "memory");
}

// At an mbarrier of any block of the cluster, by its address from map_to_block. Its scope is the
// block, which is enough after reads by wgmma, that have ended; stores, for another block to read,
// would need .release.cluster, a fence for the whole GPU each time. (mbarrier.arrive)
__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t mbarrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(mbarrier) : "memory");
}

// Whether the phase of this parity is over; may sleep for a while before it says no. The phase
// before the first, whose parity is 1, is over from the start. (mbarrier.test_wait /
// mbarrier.try_wait)
__device__ __forceinline__ bool mbarrier_try_wait(uint32_t mbarrier, uint32_t parity) {
  uint32_t is_over;
  asm volatile(
      "{\n"
      ".reg .pred is_over;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 is_over, [%1], %2;\n"
      "selp.u32 %0, 1, 0, is_over;\n"
      "}"
      : "=r"(is_over)
      : "r"(mbarrier), "r"(parity)
      : "memory");
  return is_over;
}

__device__ __forceinline__ void mbarrier_wait(uint32_t mbarrier, uint32_t parity) {
  while (!mbarrier_try_wait(mbarrier, parity)) {
  }
}

// Starts copying the box of `map` whose first element is (x, y), x along rows, to shared memory.
// All the box's bytes are counted at `mbarrier`; those out of bounds become zeros. (Tensor copy:
// cp.async.bulk.tensor)
__device__ __forceinline__ void tma_load_2d(uint32_t shared, const CUtensorMap* map, int x, int y,
                                            uint32_t mbarrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(shared),
      "l"(map), "r"(x), "r"(y), "r"(mbarrier)
      : "memory");
}

// The same to every block of the cluster whose bit `blocks` has: to the same offset of its shared
// memory, counted at its own mbarrier. (Tensor copy: cp.async.bulk.tensor)
__device__ __forceinline__ void tma_load_2d_multicast(uint32_t shared, const CUtensorMap* map,
                                                      int x, int y, uint32_t mbarrier,
                                                      uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared),
      "l"(map), "r"(x), "r"(y), "r"(mbarrier), "h"(blocks)
      : "memory");
}

// Starts copying a box from shared memory; what is out of bounds is not written. (Tensor copy:
// cp.async.bulk.tensor)
__device__ __forceinline__ void tma_store_2d(const CUtensorMap* map, int x, int y,
                                             uint32_t shared) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
      "r"(x), "r"(y), "r"(shared)
      : "memory");
}

// Makes one group of this thread's stores since the last commit. (Bulk copy:
// cp.async.bulk.commit_group)
__device__ __forceinline__ void bulk_commit_group() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until at most `kPending` of this thread's groups still read shared memory; they may have
// yet to write. (Bulk copy: cp.async.bulk.wait_group)
template <int kPending>
__device__ __forceinline__ void bulk_wait_group_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// Shows this thread's stores to shared memory to asynchronous copies that come after a barrier.
// (membar / fence: fence.proxy.async)
__device__ __forceinline__ void fence_proxy_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The descriptor of a matrix whose rows of 128 bytes a tensor map has swizzled by 128 bytes.
// `shared` is a multiple of 1024 bytes, plus up to 96 for later columns. From 8 rows to the next 8
// it is 1024 bytes; no other stride matters in this layout. (Matrix descriptor format)
__device__ __forceinline__ uint64_t swizzled_128b_descriptor(uint32_t shared) {
  constexpr uint64_t kStride = uint64_t(1024 >> 4) << 32, kSwizzle128B = uint64_t(1) << 62;
  return kSwizzle128B | kStride | (shared & 0x3ffff) >> 4;
}

// Orders this warp's accesses to registers before the warpgroup's products that use them.
// (wgmma.fence)
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// The operands of wgmma: %0 .. as text, and the sums that they stand for.
#define REGISTERS_4 "%0, %1, %2, %3"
#define REGISTERS_8 \
  REGISTERS_4       \
  ", "              \
  "%4, %5, %6, %7"
#define REGISTERS_16 \
  REGISTERS_8        \
  ", "               \
  "%8, %9, %10, %11, %12, %13, %14, %15"
#define REGISTERS_32 \
  REGISTERS_16       \
  ", "               \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_64                                                               \
  REGISTERS_32                                                                     \
  ", "                                                                             \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", "                                                                             \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_96                                                               \
  REGISTERS_64                                                                     \
  ", "                                                                             \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", "                                                                             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_128                                                                          \
  REGISTERS_96                                                                                 \
  ", "                                                                                         \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", "                                                                                         \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SUMS_4(i) "+r"(sums[i]), "+r"(sums[i + 1]), "+r"(sums[i + 2]), "+r"(sums[i + 3])
#define SUMS_8(i) SUMS_4(i), SUMS_4(i + 4)
#define SUMS_16(i) SUMS_8(i), SUMS_8(i + 8)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define SUMS_64(i) SUMS_32(i), SUMS_32(i + 32)
#define SUMS_96(i) SUMS_64(i), SUMS_32(i + 64)
#define SUMS_128(i) SUMS_64(i), SUMS_64(i + 64)

// kN / 2 sums; a, b and `accumulates` are the three operands after them.
#define WGMMA(kN, kSums, kA, kB, kAccumulates)                                          \
  __device__ __forceinline__ void wgmma(int32_t (&sums)[kSums], uint64_t a, uint64_t b, \
                                        bool accumulates) {                             \
    asm volatile(                                                                       \
        "{\n"                                                                           \
        ".reg .pred accumulates;\n"                                                     \
        "setp.ne.b32 accumulates, %" #kAccumulates                                      \
        ", 0;\n"                                                                        \
        "wgmma.mma_async.sync.aligned.m64n" #kN "k32.s32.s8.s8 {" REGISTERS_##kSums     \
        "}, "                                                                           \
        "%" #kA ", %" #kB                                                               \
        ", accumulates;\n"                                                              \
        "}"                                                                             \
        : SUMS_##kSums(0)                                                               \
        : "l"(a), "l"(b), "r"(int(accumulates)));                                       \
  }

// Starts sums = a * b, or sums += a * b, for a (64, 32) and b (32, N) of int8 and sums of int32,
// spread over a warpgroup: sums[i] is at row lane / 4 + i / 2 % 2 * 8 of the warp's 16, and at
// column lane % 4 * 2 + i / 4 * 8 + i % 2. The count of sums says which N. (wgmma.mma_async;
// Register fragments for wgmma.mma_async.m64nNk32)
WGMMA(8, 4, 4, 5, 6)
WGMMA(16, 8, 8, 9, 10)
WGMMA(32, 16, 16, 17, 18)
WGMMA(64, 32, 32, 33, 34)
WGMMA(128, 64, 64, 65, 66)
WGMMA(192, 96, 96, 97, 98)
WGMMA(256, 128, 128, 129, 130)

#undef REGISTERS_4
#undef SUMS_4
#undef REGISTERS_8
#undef SUMS_8
#undef REGISTERS_16
#undef SUMS_16
#undef REGISTERS_32
#undef SUMS_32
#undef REGISTERS_64
#undef SUMS_64
#undef REGISTERS_96
#undef SUMS_96
#undef REGISTERS_128
#undef SUMS_128
#undef WGMMA

// Makes one group of this warp's products since the last commit. (wgmma.commit_group)
__device__ __forceinline__ void wgmma_commit_group() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most `kPending` of this warp's groups are under way. (wgmma.wait_group)
template <int kPending>
__device__ __forceinline__ void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// No instruction: the compiler, which takes `sums` as written when wgmma starts, does not read them
// before this.
template <int kCount>
__device__ __forceinline__ void keep_until_here(int32_t (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(sums[i])::"memory");
}

// Takes registers from this warpgroup, for others; and waits for as many, `kCount` a thread.
// (setmaxnreg)
template <int kCount>
__device__ __forceinline__ void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// A barrier of `threads` threads of the block. (bar / barrier)
__device__ __forceinline__ void barrier_sync(int barrier, int threads) {
  asm volatile("barrier.sync.aligned %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// This block's number in its cluster. (Special registers: %cluster_ctarank)
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// The address, in the cluster, of what lies at `shared` in block `rank`. (mapa)
__device__ __forceinline__ uint32_t map_to_block(uint32_t shared, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
  return address;
}

// Four words of the shared memory of a block of the cluster, by their address from map_to_block.
// (Data movement: ld)
__device__ __forceinline__ int4 load_cluster(uint32_t address) {
  int4 words;
  asm volatile("ld.shared::cluster.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "r"(address)
               : "memory");
  return words;
}

// A barrier of all threads of the cluster. (barrier.cluster)
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

}  // namespace ptx
}  // namespace green_kernels
