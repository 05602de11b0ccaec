// What the kernels of int8_weight_linear do alike: int8 to operands of the tensor cores, exactly.
#pragma once

#include <cstring>
#include <type_traits>

#include "floats.cuh"
#include "int8_weight_linear_schedule.h"
#include "ptx.cuh"

namespace green_kernels {

template <typename To, typename From>
__device__ __forceinline__ To as_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// Two pairs of T from four int8. Behind the first byte of 1024, or of 128 in bfloat16, the last
// place is 1, and a byte put there is added: so its low 7 bits are, and the last, whose value in
// int8 is -128, is in the number that is subtracted.
template <typename T>
__device__ __forceinline__ void widen_int8(uint32_t four, uint32_t& first, uint32_t& second) {
  constexpr bool is_half = std::is_same_v<T, __half>;
  constexpr uint32_t base = is_half ? 0x64006400 : 0x43004300;
  using Pair = std::conditional_t<is_half, __half2, __nv_bfloat162>;
  const auto subtract = [&](uint32_t pair) {
    return as_bits<uint32_t>(__hsub2(as_bits<Pair>(pair & (base | 0x007f007f)),
                                     as_bits<Pair>(pair & (base | 0x800080))));
  };
  first = subtract(__byte_perm(four, base, 0x5150));
  second = subtract(__byte_perm(four, base, 0x5352));
}

// sums += a * b by T's mma.
template <typename T>
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, __half>)
    ptx::mma_m16n8k16_f16(sums, a, b);
  else
    ptx::mma_m16n8k16_bf16(sums, a, b);
}

}  // namespace green_kernels
