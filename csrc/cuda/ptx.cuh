// PTX, one wrapper per instruction. What a kernel asks of the hardware beyond CUDA C++ is listed
// here, and in ptx_sm90a.cuh what sm_90a alone has, each with its section of the PTX ISA (by title:
// the numbers move from version to version); no other CUDA file has inline assembly.
#pragma once

#include <cstdint>

namespace green_kernels {
namespace ptx {

// The address of `pointer` within the shared window, which the instructions below take. (cvta)
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  uint64_t address;
  asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(pointer));
  return static_cast<uint32_t>(address);
}

// Starts copying 16 bytes from global to shared memory, past L1 and without registers. Only the
// first `bytes` are read; the rest is filled with zeros. (Asynchronous copy: cp.async)
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(bytes)
               : "memory");
}

// Makes one group of this thread's copies since the last commit. (Asynchronous copy:
// cp.async.commit_group)
__device__ __forceinline__ void cp_async_commit_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `kPending` of this thread's groups are under way. (Asynchronous copy:
// cp.async.wait_group)
template <int kPending>
__device__ __forceinline__ void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four matrices of 8 rows x 16 bytes: lane l hands over the address of row l % 8 of matrix l / 8,
// and receives, of each matrix, bytes 4 * (l % 4) .. + 3 of row l / 4. (Warp-level matrix load:
// ldmatrix)
__device__ __forceinline__ void ldmatrix_x4(uint32_t shared, uint32_t& r0, uint32_t& r1,
                                            uint32_t& r2, uint32_t& r3) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
               : "r"(shared)
               : "memory");
}

// Two words to shared memory, by one instruction for certain: two C++ stores nvcc joins, and one of
// eight bytes it takes apart where a branch shares it. (Data movement: st)
__device__ __forceinline__ void store_shared_2(uint32_t shared, int32_t first, int32_t second) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(shared), "r"(first), "r"(second)
               : "memory");
}
__device__ __forceinline__ void store_shared_2(uint32_t shared, float first, float second) {
  store_shared_2(shared, __float_as_int(first), __float_as_int(second));
}

// Four, at a multiple of 16 bytes. (Data movement: st)
__device__ __forceinline__ void store_shared_4(uint32_t shared, const int32_t (&words)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(words[0]),
               "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

// c += a * b for a (16, 32) and b (32, 8) of int8 and c of int32, spread over a warp. No
// .satfinite: sums wrap, and K is limited so that none does. (Matrix fragments for mma.m16n8k32;
// Multiply-and-accumulate: mma)
__device__ __forceinline__ void mma_m16n8k32(int32_t (&c)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same for a (16, 16) and b (16, 8) of float16 or bfloat16 and c of float32. (Matrix fragments
// for mma.m16n8k16 with floating point type; Multiply-and-accumulate: mma)
__device__ __forceinline__ void mma_m16n8k16_f16(float (&c)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&c)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// No instruction: what the compiler has made of `word` before, it makes anew after, rather than
// hold it in a register meanwhile.
__device__ __forceinline__ void forget(uint32_t& word) { asm volatile("" : "+r"(word)); }

// Lets the kernel after this one on its stream begin, as far as there is room for it, if it was
// launched to overlap; and waits until the kernel before this one has ended and its writes are
// seen. Before sm_90 there is no such thing, and nothing overlaps. (Parallel synchronization and
// communication: griddepcontrol)
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace ptx
}  // namespace green_kernels
