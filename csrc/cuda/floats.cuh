// Values of a dtype that is known only at run time, as float32: for what a kernel reads or writes
// once, where a branch is cheaper than a kernel for each combination of dtypes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>
#include <type_traits>

#include "../types.h"

namespace green_kernels {

__device__ __forceinline__ float to_float32(float x) { return x; }
__device__ __forceinline__ float to_float32(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float32(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float32(float x);
template <>
__device__ __forceinline__ float from_float32<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float32<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float32<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Whether values at `pointer` may move `bytes` at a time.
inline bool is_aligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// N values that move together.
template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector {
  T values[N];
};

// Writes them by one instruction. (A plain assignment nvcc 13.0 takes apart again for sm_90 and
// before, when it shares the first of the stores with the branch that writes one by one.)
template <typename T, int N>
__device__ __forceinline__ void store_vector(T* to, const Vector<T, N>& vector) {
  using Word = std::conditional_t<sizeof(vector) == 16, int4, int2>;
  static_assert(sizeof(Word) == sizeof(vector));
  Word word;
  memcpy(&word, &vector, sizeof(word));
  __stwb(reinterpret_cast<Word*>(to), word);
}

// Calls f with a null pointer to the type of `dtype`.
template <typename F>
__device__ __forceinline__ void with_type(Float dtype, F&& f) {
  switch (dtype) {
    case Float::kFloat32:
      return f(static_cast<float*>(nullptr));
    case Float::kFloat16:
      return f(static_cast<__half*>(nullptr));
    case Float::kBFloat16:
      return f(static_cast<__nv_bfloat16*>(nullptr));
  }
}

// Four values as they lie in memory, of 16 bits in the first two words: whoever reads them has not
// to wait for them yet.
struct Raw4 {
  uint32_t words[4];
};

// Reads four values from `offset` on: at once where `wide`, else the first `count` of them.
__device__ __forceinline__ Raw4 load_raw4(const void* from, Float dtype, int64_t offset, int count,
                                          bool wide) {
  Raw4 raw{};
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* source = static_cast<const T*>(from) + offset;
    Vector<T, 4> vector{};
    if (wide) {
      vector = *reinterpret_cast<const Vector<T, 4>*>(source);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (i < count) vector.values[i] = source[i];
    }
    memcpy(&raw, &vector, sizeof(vector));
  });
  return raw;
}

__device__ __forceinline__ void to_float32(const Raw4& raw, Float dtype, float (&to)[4]) {
  with_type(dtype, [&](auto* type) {
    Vector<std::remove_pointer_t<decltype(type)>, 4> vector;
    memcpy(&vector, &raw, sizeof(vector));
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = to_float32(vector.values[i]);
  });
}

__device__ __forceinline__ void load4(const void* from, Float dtype, int64_t offset, int count,
                                      bool wide, float (&to)[4]) {
  to_float32(load_raw4(from, dtype, offset, count, wide), dtype, to);
}

// Rounds four values once and writes them likewise.
__device__ __forceinline__ void store4(void* to, Float dtype, int64_t offset, int count, bool wide,
                                       const float (&from)[4]) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    T* target = static_cast<T*>(to) + offset;
    if (wide) {
      Vector<T, 4> vector;
      for (int i = 0; i < 4; ++i) vector.values[i] = from_float32<T>(from[i]);
      store_vector(target, vector);
    } else {
      for (int i = 0; i < 4; ++i)
        if (i < count) target[i] = from_float32<T>(from[i]);
    }
  });
}

}  // namespace green_kernels
