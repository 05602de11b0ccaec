// PTX of sm_90a, one wrapper per instruction, as csrc/cuda/ptx.cuh has those of sm_80: mbarriers,
// copies by tensor maps (TMA), products of warpgroups, clusters. Addresses in shared memory are
// those of ptx::shared_address.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "../../csrc/cuda/ptx.cuh"

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

// Starts sums = a * b, or sums += a * b, for a (64, 32) and b (32, 128) of int8 and sums of int32,
// spread over a warpgroup: sums[i] is at row lane / 4 + i / 2 % 2 * 8 of the warp's 16, and at
// column lane % 4 * 2 + i / 4 * 8 + i % 2. (wgmma.mma_async; Register fragments for
// wgmma.mma_async.m64nNk32)
__device__ __forceinline__ void wgmma_m64n128k32(int32_t (&sums)[64], uint64_t a, uint64_t b,
                                                 bool accumulates) {
  asm volatile(
      "{\n"
      ".reg .pred accumulates;\n"
      "setp.ne.b32 accumulates, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 "
      "{%0, %1, %2, %3, %4, %5, %6, %7,"
      " %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23,"
      " %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39,"
      " %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55,"
      " %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, accumulates;\n"
      "}"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3]), "+r"(sums[4]), "+r"(sums[5]),
        "+r"(sums[6]), "+r"(sums[7]), "+r"(sums[8]), "+r"(sums[9]), "+r"(sums[10]), "+r"(sums[11]),
        "+r"(sums[12]), "+r"(sums[13]), "+r"(sums[14]), "+r"(sums[15]), "+r"(sums[16]),
        "+r"(sums[17]), "+r"(sums[18]), "+r"(sums[19]), "+r"(sums[20]), "+r"(sums[21]),
        "+r"(sums[22]), "+r"(sums[23]), "+r"(sums[24]), "+r"(sums[25]), "+r"(sums[26]),
        "+r"(sums[27]), "+r"(sums[28]), "+r"(sums[29]), "+r"(sums[30]), "+r"(sums[31]),
        "+r"(sums[32]), "+r"(sums[33]), "+r"(sums[34]), "+r"(sums[35]), "+r"(sums[36]),
        "+r"(sums[37]), "+r"(sums[38]), "+r"(sums[39]), "+r"(sums[40]), "+r"(sums[41]),
        "+r"(sums[42]), "+r"(sums[43]), "+r"(sums[44]), "+r"(sums[45]), "+r"(sums[46]),
        "+r"(sums[47]), "+r"(sums[48]), "+r"(sums[49]), "+r"(sums[50]), "+r"(sums[51]),
        "+r"(sums[52]), "+r"(sums[53]), "+r"(sums[54]), "+r"(sums[55]), "+r"(sums[56]),
        "+r"(sums[57]), "+r"(sums[58]), "+r"(sums[59]), "+r"(sums[60]), "+r"(sums[61]),
        "+r"(sums[62]), "+r"(sums[63])
      : "l"(a), "l"(b), "r"(int(accumulates)));
}

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

// A barrier of all threads of the cluster. (barrier.cluster)
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// (st)
__device__ __forceinline__ void store_shared(uint32_t shared, uint2 values) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(shared), "r"(values.x), "r"(values.y)
               : "memory");
}

}  // namespace ptx
}  // namespace green_kernels
