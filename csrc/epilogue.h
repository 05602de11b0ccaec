// From a sum, int32 or float32, to an output, one rounded float32 operation after another: the
// order is the numerics contract, so it stands here once for the CPU and the CUDA kernels.  (The
// sums of int8_weight_linear have no x_scale.)
//
//   y = float(acc) * x_scale;  y = y * w_scale;  y = y + bias;  y = act(y);  y = y + residual
#pragma once

#include <cmath>
#include <cstring>

#include "types.h"

namespace green_kernels {

// A product and a sum that no compiler may contract into a fused multiply-add.  On the host the
// build says -ffp-contract=off.
HOST_DEVICE float product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

HOST_DEVICE float sum(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

// e**x for x <= 0.  The host's own version has no call and no branch, so loops over it vectorise;
// it is good to 2**-40, which is ample for a float32 result, and ends at e**-700, which is none.
HOST_DEVICE float exponential(float x) { return std::exp(x); }

HOST_DEVICE double exponential(double x) {
#ifdef __CUDA_ARCH__
  return exp(x);
#else
  x = x < -700.0 ? -700.0 : x;
  const double kToInteger = 0x1.8p52;  // adding it leaves a double no bits for a fraction
  const double shifted = x * 1.4426950408889634 + kToInteger;
  const double n = shifted - kToInteger;
  const double r = x - n * 0.6931471805599453;
  double e = 1.0 / 3628800;  // Taylor: |r| <= ln(2) / 2, so the first term left out is 2e-13
  e = e * r + 1.0 / 362880;
  e = e * r + 1.0 / 40320;
  e = e * r + 1.0 / 5040;
  e = e * r + 1.0 / 720;
  e = e * r + 1.0 / 120;
  e = e * r + 1.0 / 24;
  e = e * r + 1.0 / 6;
  e = e * r + 0.5;
  e = e * r + 1.0;
  e = e * r + 1.0;
  int64_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);  // its low bits are n
  bits = (bits + 1023) << 52;                 // 2**n
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return e * power;
#endif
}

// z / (1 + e**-s), for z and s of one sign, from e**-|s|, which cannot overflow.
template <typename F>
HOST_DEVICE F times_sigmoid(F z, F s) {
  const F e = exponential(s < 0 ? s : -s);
  return z * (s < 0 ? e : F(1)) / (F(1) + e);
}

// z * Phi(z), Phi the standard normal distribution.  With t = |z|, Phi(-t) = e**(-t*t/2) * R(t),
// and (t + 4.25) * R(t) is a polynomial in (t - 4.25) / (t + 4.25), a least-maximum fit of relative
// error 2**-34 on [0, 15]: no cancellation in the tail, where z * (1 + erf(z / sqrt(2))) / 2 has
// nothing but cancellation.
template <typename F>
HOST_DEVICE F times_normal_distribution(F z) {
  F t = z < 0 ? -z : z;
  t = t > F(40) ? F(40) : t;  // the tail at 40 is nothing, and infinity / infinity would be NaN
  const F v = (t - F(4.25)) / (t + F(4.25));
  F p = F(2.78843357544808e-05);
  p = p * v + F(6.9787042991772185e-05);
  p = p * v + F(-0.00020032432311396656);
  p = p * v + F(-0.00040286545831392498);
  p = p * v + F(0.0021523785340460534);
  p = p * v + F(-0.00074534286762408951);
  p = p * v + F(-0.019358807087797587);
  p = p * v + F(0.085272055376092101);
  p = p * v + F(-0.22051598461252958);
  p = p * v + F(0.41822752686634684);
  p = p * v + F(-0.6251297777265904);
  p = p * v + F(0.75955420826293629);
  const F tail = exponential(t * t * F(-0.5)) * p / (t + F(4.25));
  return z * (z < 0 ? tail : F(1) - tail);
}

// act(z) in the arithmetic of F: double where the output is float32, float where it is narrower.
template <typename F>
HOST_DEVICE F activate(F z, Act act) {
  switch (act) {
    case Act::kRelu:
      return z < 0 ? F(0) : z;  // NaN stays NaN
    case Act::kGelu:
      return times_normal_distribution(z);
    case Act::kGeluTanh:
      return times_sigmoid(z, F(1.5957691216057308) * (z + F(0.044715) * z * z * z));
    case Act::kSilu:
      return times_sigmoid(z, z);
    default:
      return z;
  }
}

}  // namespace green_kernels
