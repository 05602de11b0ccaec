// Floating-point formats that C++ does not have, and how PTX rounds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "machine.h"

namespace emulator {

enum class Rounding { kNearest, kZero, kDown, kUp, kAway };

inline Rounding rounding_of(const std::string& modifier) {  // "rn", "rni", "rz", ..
  if (modifier == "rna") return Rounding::kAway;
  const char to = modifier[1];
  return to == 'z'   ? Rounding::kZero
         : to == 'm' ? Rounding::kDown
         : to == 'p' ? Rounding::kUp
                     : Rounding::kNearest;
}

inline double round_to_integer(double value, Rounding rounding) {
  switch (rounding) {
    case Rounding::kZero:
      return std::trunc(value);
    case Rounding::kDown:
      return std::floor(value);
    case Rounding::kUp:
      return std::ceil(value);
    case Rounding::kAway:
      return std::round(value);
    default:
      return std::nearbyint(value);
  }
}

// A binary format smaller than float, in the low bits of Bits. (PTX ISA, "Alternate Floating-Point
// Data Formats".) Its largest exponent is for infinity and NaN as in IEEE 754; or, where there is
// no infinity, only all ones are NaN.
template <int kExponentBits, int kFractionBits, bool kHasInfinity, typename Bits>
struct SmallFloat {
  using Storage = Bits;
  static constexpr bool kInfinite = kHasInfinity;
  static constexpr int kFraction = kFractionBits;
  static constexpr int kMinExponent = 2 - (1 << (kExponentBits - 1));  // of normal numbers
  static constexpr uint32_t kImplicit = 1u << kFractionBits;           // the bit not stored
  static constexpr uint32_t kSign = 1u << (kExponentBits + kFractionBits);
  static constexpr uint32_t kNan = kSign - 1;  // the one that hardware makes
  static constexpr uint32_t kLargest = kHasInfinity ? kSign - kImplicit - 1 : kNan - 1;

  Bits bits;
};

using F16 = SmallFloat<5, 10, true, uint16_t>;
using BF16 = SmallFloat<8, 7, true, uint16_t>;
using TF32 = SmallFloat<8, 10, true, uint32_t>;
using E5M2 = SmallFloat<5, 2, true, uint8_t>;
using E4M3 = SmallFloat<4, 3, false, uint8_t>;

// A register has a TF32 as a float, whose last bits do not count.
constexpr int kTf32Shift = 23 - TF32::kFraction;

// 2^exponent, of a normal number.
inline double power_of_two(int exponent) { return as<double>(uint64_t(exponent + 1023) << 52); }

template <typename S>
double decode(S small) {
  const uint32_t magnitude = small.bits & (S::kSign - 1);
  // Without the implicit bit, numbers are subnormal and have the exponent of the least normal ones.
  const uint32_t exponent = std::max(magnitude >> S::kFraction, 1u) - 1;
  const uint32_t significand = magnitude - exponent * S::kImplicit;
  double value = significand * power_of_two(int(exponent) + S::kMinExponent - S::kFraction);
  if (magnitude > S::kLargest)
    value = S::kInfinite && magnitude == S::kLargest + 1 ? INFINITY : NAN;
  return small.bits & S::kSign ? -value : value;
}

// Rounds once. `finite` is .satfinite: the largest number instead of infinity.
template <typename S>
S encode(double value, Rounding rounding = Rounding::kNearest, bool finite = false) {
  using Storage = typename S::Storage;
  if (std::isnan(value)) return {Storage(S::kNan)};
  const bool negative = std::signbit(value);
  uint32_t magnitude = S::kLargest + 1;
  if (!std::isinf(value)) {
    const int exponent = std::max(int(bits_of(value) >> 52 & 0x7ff) - 1023, S::kMinExponent);
    const double units = value * power_of_two(S::kFraction - exponent);  // of the last place
    // The implicit bit adds one to the exponent's field, and so does a carry.
    magnitude = (uint32_t(exponent - S::kMinExponent) << S::kFraction) +
                uint32_t(std::fabs(round_to_integer(units, rounding)));
    const bool outward = rounding == Rounding::kNearest || rounding == Rounding::kAway ||
                         rounding == (negative ? Rounding::kDown : Rounding::kUp);
    magnitude = std::min(magnitude, S::kLargest + outward);
  }
  if (finite) magnitude = std::min(magnitude, S::kLargest);
  return {Storage(magnitude | (negative ? S::kSign : 0))};
}

}  // namespace emulator
