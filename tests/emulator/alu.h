// What the instructions that compute in registers share: types by their PTX names, floating-point
// formats that C++ does not have, and the loop over a warp's lanes.
#pragma once

#include <algorithm>
#include <array>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "machine.h"
#include "program.h"

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

  uint32_t magnitude() const { return bits & (kSign - 1); }

  Bits bits;
};

using F16 = SmallFloat<5, 10, true, uint16_t>;
using BF16 = SmallFloat<8, 7, true, uint16_t>;
using E5M2 = SmallFloat<5, 2, true, uint8_t>;
using E4M3 = SmallFloat<4, 3, false, uint8_t>;

// 2^exponent, of a normal number.
inline double power_of_two(int exponent) { return as<double>(uint64_t(exponent + 1023) << 52); }

template <typename S>
double decode(S small) {
  const uint32_t magnitude = small.magnitude(), exponent = magnitude >> S::kFraction;
  double value;
  if (magnitude > S::kLargest) {
    value = S::kInfinite && magnitude == S::kLargest + 1 ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = magnitude * power_of_two(S::kMinExponent - S::kFraction);
  } else {
    const uint32_t significand = (magnitude & (S::kImplicit - 1)) | S::kImplicit;
    value = significand * power_of_two(int(exponent) - 1 + S::kMinExponent - S::kFraction);
  }
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

// A double that stands for a number of more bits: rounded to odd, so that rounding it once more, to
// 51 bits or fewer, gives what rounding the number itself would. (S. Boldo, G. Melquiond,
// "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.)
// F16 and BF16 are computed so, because their sums may spread over more than 53 bits.
struct Odd {
  explicit Odd(double value) : value(value) {}
  operator double() const { return value; }

  double value;
};

inline Odd operator+(Odd a, Odd b) {
  double sum = a.value + b.value;
  if (std::isfinite(sum)) {
    const double part = sum - a.value;
    const double error = (a.value - (sum - part)) + (b.value - part);  // exact
    if (error != 0 && bits_of(sum) % 2 == 0) sum = std::nextafter(sum, error * INFINITY);
  }
  return Odd(sum);
}
inline Odd operator-(Odd a, Odd b) { return a + Odd(-b.value); }
inline Odd operator*(Odd a, Odd b) { return Odd(a.value * b.value); }  // exact, of at most 26 bits
inline Odd fma(Odd a, Odd b, Odd c) { return a * b + c; }

// What values of a type are computed as.
inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
template <int kExponentBits, int kFractionBits, bool kHasInfinity, typename Bits>
Odd widen(SmallFloat<kExponentBits, kFractionBits, kHasInfinity, Bits> x) {
  return Odd(decode(x));
}
template <typename T>
using Wide = decltype(widen(T()));

// The way back. (PTX ISA, "Floating Point Instructions": instructions in single precision return an
// unspecified NaN, which in hardware is 0x7fffffff; those in double precision keep the NaN's
// payload, as the CPU does too.)
template <typename T>
T narrow(Wide<T> value, Rounding rounding = Rounding::kNearest) {
  if constexpr (std::is_same_v<T, float>) {
    return std::isnan(value) ? as<float>(0x7fffffff) : value;
  } else if constexpr (std::is_same_v<T, double>) {
    return value;
  } else {
    return encode<T>(value, rounding);
  }
}

template <typename T>
bool is_negative(T x) {
  if constexpr (std::is_floating_point_v<T>) {
    return bits_of(x) >> (8 * sizeof(T) - 1);  // g++ 12 fails when it vectorizes std::signbit
  } else {
    return x.bits & T::kSign;
  }
}

template <typename T>
T with_sign(T x, bool negative) {
  if constexpr (std::is_floating_point_v<T>) {
    return std::copysign(x, negative ? T(-1) : T(1));
  } else {
    return {typename T::Storage(x.magnitude() | (negative ? T::kSign : 0))};
  }
}

// .ftz: a subnormal number becomes a zero of its sign.
template <typename T>
T flush(T x) {
  if constexpr (std::is_floating_point_v<T>) {
    return std::fabs(x) < std::numeric_limits<T>::min() ? std::copysign(T(0), x) : x;
  } else {
    return x.magnitude() < T::kImplicit ? with_sign(T{0}, is_negative(x)) : x;
  }
}

// .sat of a floating-point result.
template <typename W>
W saturate(W value) {
  return W(value > 0 ? std::min<double>(value, 1) : 0);
}

// .relu of one.
template <typename W>
W rectify(W value) {
  return W(value > 0 || std::isnan(double(value)) ? double(value) : 0);
}

// Two values in one register.
template <typename T>
struct Pair {
  T low, high;
};

template <typename T>
struct Type {
  using type = T;
};
template <typename... T>
struct Types {};

template <typename T>
struct ElementOf : Type<T> {
  static constexpr bool kIsPair = false;
};
template <typename T>
struct ElementOf<Pair<T>> : Type<T> {
  static constexpr bool kIsPair = true;
};
template <typename T>
using Element = typename ElementOf<T>::type;  // T itself, or half of a Pair

// f, on each half where T is a Pair.
template <typename T, typename F>
auto on_elements(F f) {
  if constexpr (ElementOf<T>::kIsPair) {
    return [f](auto... pairs) {
      return Pair<decltype(f(pairs.low...))>{f(pairs.low...), f(pairs.high...)};
    };
  } else {
    return f;
  }
}

template <typename T>
std::string name_of() {
  if constexpr (ElementOf<T>::kIsPair) {
    return name_of<Element<T>>() + "x2";
  } else if constexpr (std::is_same_v<T, bool>) {
    return "pred";
  } else if constexpr (std::is_class_v<T>) {
    return std::is_same_v<T, F16>    ? "f16"
           : std::is_same_v<T, BF16> ? "bf16"
           : std::is_same_v<T, E5M2> ? "e5m2"
                                     : "e4m3";
  } else {
    const char letter = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 's' : 'u';
    return letter + std::to_string(8 * sizeof(T));
  }
}

// Calls f with the Type, of those given, that has this name.
template <typename... T, typename F>
void with_type(Types<T...>, const std::string& name, F&& f) {
  if (!((name == name_of<T>() && (f(Type<T>()), true)) || ...)) fail("no type for it: ." + name);
}

// The unsigned type of the size of one of `types`, which the instruction has: for .b32 and others
// of which only the size matters.
inline std::string take_size(Modifiers& modifiers, const std::vector<std::string>& types) {
  return "u" + modifiers.take_one(types).substr(1);
}

using Integers = Types<uint16_t, uint32_t, uint64_t, int16_t, int32_t, int64_t>;
using Words = Types<uint16_t, uint32_t, uint64_t>;

// Those of mov and selp.
inline const std::vector<std::string> kRegisterTypes = {"b16", "b32", "b64", "u16", "u32", "u64",
                                                        "s16", "s32", "s64", "f32", "f64"};

// Arithmetic that wraps around: in the unsigned type that C++ computes T in.
template <typename T>
auto wrapping(T x) {
  return std::make_unsigned_t<decltype(x + x)>(x);
}

template <typename T>
using BitsOf =
    std::conditional_t<sizeof(T) == 1, uint8_t,
                       std::conditional_t<sizeof(T) == 2, uint16_t,
                                          std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>>;

// A source operand, and what becomes of a result. (As as() and bits_of() do it, but by conversions
// between integers, which g++ vectorizes.)
template <typename T>
T read(uint64_t bits, bool negated = false) {
  if constexpr (std::is_same_v<T, bool>) {
    return (bits & 1) != negated;
  } else {
    const BitsOf<T> word = BitsOf<T>(bits);
    T value;
    std::memcpy(&value, &word, sizeof(T));
    return value;
  }
}

template <typename T>
uint64_t written(T value) {
  BitsOf<T> word;
  std::memcpy(&word, &value, sizeof(T));
  return word;
}

template <typename... A, typename F, size_t... I>
void map_lanes(Warp& warp, const Instruction& instruction, const F& f, std::index_sequence<I...>) {
  const Operand* operands = instruction.operands.data();
  if (operands[0].kind == Operand::Kind::kSink) return;
  uint64_t* to = warp.lanes(operands[0]);
  const std::array<const uint64_t*, sizeof...(A)> from{warp.lanes(operands[I + 1])...};
  const std::array<bool, sizeof...(A)> negated{operands[I + 1].negated...};
  const auto map = [&](int lane) { to[lane] = written(f(read<A>(from[I][lane], negated[I])...)); };
  if (warp.active == kAllLanes) {
#pragma GCC ivdep  // though `to` may be one of `from`: lanes do not depend on each other
    for (int lane = 0; lane < kLanes; ++lane) map(lane);
  } else {
    for_lanes(warp.active, map);
  }
}

// Fails unless the operands from `first` on are registers or constants.
inline void expect_values(const Instruction& instruction, size_t first) {
  for (size_t i = first; i < instruction.operands.size(); ++i) {
    if (instruction.operands[i].kind != Operand::Kind::kValue) fail("a source is not a value");
  }
}

// Makes the instruction `f` of its operands from the second on, of types A, into the first.
template <typename... A, typename F>
void each(Instruction& instruction, F f) {
  expect_operands(instruction, 1 + sizeof...(A), 1 + sizeof...(A));
  expect_values(instruction, 1);
  instruction.run = [f](Warp& warp, const Instruction& instruction) {
    map_lanes<A...>(warp, instruction, f, std::index_sequence_for<A...>());
  };
}

// Makes the instruction `f` of N elements of the type that, of those allowed, has this name.
template <size_t N, typename Allowed, typename F>
void apply(Instruction& instruction, const std::string& type, F f) {
  with_type(Allowed(), type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (N == 1) {
      each<T>(instruction, on_elements<T>(f));
    } else if constexpr (N == 2) {
      each<T, T>(instruction, on_elements<T>(f));
    } else {
      each<T, T, T>(instruction, on_elements<T>(f));
    }
  });
}

// Lets the instruction run in a rounding mode of the CPU, which is otherwise FE_TONEAREST.
inline void run_rounding(Instruction& instruction, Rounding rounding) {
  if (rounding == Rounding::kNearest) return;
  const int mode = rounding == Rounding::kZero   ? FE_TOWARDZERO
                   : rounding == Rounding::kDown ? FE_DOWNWARD
                                                 : FE_UPWARD;
  instruction.run = [mode, run = std::move(instruction.run)](Warp& warp,
                                                             const Instruction& instruction) {
    std::fesetround(mode);
    run(warp, instruction);
    std::fesetround(FE_TONEAREST);
  };
}

}  // namespace emulator
