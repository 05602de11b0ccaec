// What is done to one row.  Plain loops that the compiler vectorises; GREEN_KERNELS_CLONES has it
// do so for AVX-512, for AVX2 and for the least of the architecture.
#include "rows.h"

#include <cstring>
#include <type_traits>

#include "../epilogue.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define GREEN_KERNELS_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GREEN_KERNELS_CLONES
#endif

namespace green_kernels {
namespace {

constexpr uint32_t kInfinityBits = 0x7f800000;
constexpr float kToInteger = 0x1.8p23f;  // adding it leaves a float no bits for a fraction
constexpr uint32_t kToIntegerBits = 0x4b400000;

template <typename To, typename From>
HOST_DEVICE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

HOST_DEVICE float from_bfloat16(uint16_t x) { return bits_as<float>(uint32_t(x) << 16); }

HOST_DEVICE uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // half to even
  return (bits & 0x7fffffff) > kInfinityBits ? 0x7fc0 : uint16_t(rounded);
}

HOST_DEVICE float from_float16(uint16_t x) {
  const uint32_t magnitude = uint32_t(x & 0x7fff) << 13;
  const float scaled = bits_as<float>(magnitude) * 0x1p112f;  // subnormals come out right too
  const uint32_t finite = bits_as<uint32_t>(scaled);
  const uint32_t special = magnitude | kInfinityBits;
  const uint32_t bits = (x & 0x7c00) == 0x7c00 ? special : finite;
  return bits_as<float>(bits | uint32_t(x & 0x8000) << 16);
}

HOST_DEVICE uint16_t to_float16(float x) {
  const uint32_t bits = bits_as<uint32_t>(x), sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  // Below 2**-14, adding 0.5 rounds to a multiple of 2**-24, which the low bits then count.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000;
  uint32_t half = magnitude < 0x38800000 ? subnormal : normal;
  half = magnitude >= 0x477ff000 ? 0x7c00 : half;  // 65520 and more round to infinity
  half = magnitude > kInfinityBits ? 0x7e00 : half;
  return uint16_t(sign | half);
}

// A float of each dtype as bits: those of x[i], and what they stand for.
template <Float dtype>
using Bits = std::conditional_t<dtype == Float::kFloat32, uint32_t, uint16_t>;

template <Float dtype>
HOST_DEVICE Bits<dtype> bits_at(const void* x, int64_t i) {
  Bits<dtype> bits;
  std::memcpy(&bits, static_cast<const char*>(x) + i * int64_t(sizeof bits), sizeof bits);
  return bits;
}

template <Float dtype>
HOST_DEVICE float value(Bits<dtype> bits) {
  if constexpr (dtype == Float::kFloat32) return bits_as<float>(bits);
  return dtype == Float::kFloat16 ? from_float16(uint16_t(bits)) : from_bfloat16(uint16_t(bits));
}

template <Float dtype>
HOST_DEVICE void widen(const void* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = value<dtype>(bits_at<dtype>(from, i));
}

template <Float dtype>
HOST_DEVICE float quantize(const void* x, int64_t K, int zero, uint8_t* x_q) {
  constexpr Bits<dtype> kMagnitude = Bits<dtype>(~0) >> 1;
  constexpr Bits<dtype> kInfinity = dtype == Float::kFloat32   ? kInfinityBits
                                    : dtype == Float::kFloat16 ? 0x7c00
                                                               : 0x7f80;
  Bits<dtype> peak = 0;  // of |x|, as bits: they order as the numbers do, with NaN above infinity
  for (int64_t k = 0; k < K; ++k) {
    const Bits<dtype> magnitude = bits_at<dtype>(x, k) & kMagnitude;
    peak = magnitude > peak ? magnitude : peak;
  }
  if (peak >= kInfinity) {
    std::memset(x_q, zero, K);
    return bits_as<float>(uint32_t(0x7fc00000));
  }
  const float largest = value<dtype>(peak);
  const float amax = largest > kMinAmax ? largest : kMinAmax;
  const float inverse = kInt8Max / amax;
  // |x * inverse| exceeds 127 by a rounding error at the most: there is nothing to clamp.
  const uint32_t offset = uint32_t(zero) - kToIntegerBits;
  for (int64_t k = 0; k < K; ++k)
    x_q[k] = uint8_t(bits_as<uint32_t>(value<dtype>(bits_at<dtype>(x, k)) * inverse + kToInteger) +
                     offset);
  return amax / kInt8Max;
}

template <Act act>
HOST_DEVICE void finish(const float* acc, float x_scale, const float* w_scale, const float* bias,
                        const float* residual, int64_t N, float* y) {
#pragma GCC ivdep  // y may be acc, to the element
  for (int64_t n = 0; n < N; ++n) {
    float value = product(product(acc[n], x_scale), w_scale[n]);
    if (bias) value = sum(value, bias[n]);
    if constexpr (act == Act::kRelu)
      value = activate(value, act);
    else if constexpr (act != Act::kNone)
      value = float(activate(double(value), act));
    if (residual) value = sum(value, residual[n]);
    y[n] = value;
  }
}

}  // namespace

GREEN_KERNELS_CLONES void widen(const void* from, Float dtype, int64_t n, float* to) {
  switch (dtype) {
    case Float::kFloat32:
      return widen<Float::kFloat32>(from, n, to);
    case Float::kFloat16:
      return widen<Float::kFloat16>(from, n, to);
    case Float::kBFloat16:
      return widen<Float::kBFloat16>(from, n, to);
  }
}

GREEN_KERNELS_CLONES void narrow(const float* from, int64_t n, Float dtype, void* to) {
  auto* halves = static_cast<uint16_t*>(to);
  if (dtype == Float::kFloat32)
    std::memcpy(to, from, n * sizeof(float));
  else if (dtype == Float::kFloat16)
    for (int64_t i = 0; i < n; ++i) halves[i] = to_float16(from[i]);
  else
    for (int64_t i = 0; i < n; ++i) halves[i] = to_bfloat16(from[i]);
}

GREEN_KERNELS_CLONES float quantize_row(const void* x, Float dtype, int64_t K, int zero,
                                        uint8_t* x_q) {
  switch (dtype) {
    case Float::kFloat16:
      return quantize<Float::kFloat16>(x, K, zero, x_q);
    case Float::kBFloat16:
      return quantize<Float::kBFloat16>(x, K, zero, x_q);
    default:
      return quantize<Float::kFloat32>(x, K, zero, x_q);
  }
}

GREEN_KERNELS_CLONES void offset_row(const int8_t* x_q, int64_t K, int zero, uint8_t* to) {
  for (int64_t k = 0; k < K; ++k) to[k] = uint8_t(x_q[k] + zero);
}

GREEN_KERNELS_CLONES void dot_rows(const int8_t* x_q, const int8_t* w_q, int64_t N, int64_t K,
                                   float* acc) {
  for (int64_t n = 0; n < N; ++n) {
    const int8_t* w = w_q + n * K;
    int32_t dot = 0;
    for (int64_t k = 0; k < K; ++k) dot += int16_t(x_q[k]) * int16_t(w[k]);
    acc[n] = float(dot);
  }
}

GREEN_KERNELS_CLONES void epilogue_row(const float* acc, float x_scale, const float* w_scale,
                                       const float* bias, Act act, const float* residual, int64_t N,
                                       float* y) {
  switch (act) {
    case Act::kNone:
      return finish<Act::kNone>(acc, x_scale, w_scale, bias, residual, N, y);
    case Act::kRelu:
      return finish<Act::kRelu>(acc, x_scale, w_scale, bias, residual, N, y);
    case Act::kGelu:
      return finish<Act::kGelu>(acc, x_scale, w_scale, bias, residual, N, y);
    case Act::kGeluTanh:
      return finish<Act::kGeluTanh>(acc, x_scale, w_scale, bias, residual, N, y);
    case Act::kSilu:
      return finish<Act::kSilu>(acc, x_scale, w_scale, bias, residual, N, y);
  }
}

}  // namespace green_kernels
