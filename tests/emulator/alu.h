// What the instructions that compute in registers share: types by their PTX names, the arithmetic
// that C++ lacks, and the loop over a warp's lanes.
#pragma once

#include <array>
#include <cfenv>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "formats.h"
#include "machine.h"
#include "program.h"

namespace emulator {

// a + b as a double, for results of more bits: rounded to odd, so that rounding it once more, to 51
// bits or fewer, gives what rounding the sum itself would. (S. Boldo, G. Melquiond, "Emulation of
// FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.)
inline double add_to_odd(double a, double b) {
  const double sum = a + b;
  if (!std::isfinite(sum)) return sum;
  const double part = sum - a, error = (a - (sum - part)) + (b - part);  // exact
  return error != 0 && bits_of(sum) % 2 == 0 ? std::nextafter(sum, error * INFINITY) : sum;
}

// What values of a type are computed as, and the way back. (PTX ISA, "Floating Point Instructions":
// instructions in single precision return an unspecified NaN, which in hardware is 0x7fffffff;
// those in double precision keep the NaN's payload, as the CPU does too.)
template <typename T>
auto widen(T x) {
  if constexpr (std::is_class_v<T>) {
    return decode(x);
  } else {
    return x;
  }
}
template <typename T>
using Wide = decltype(widen(T()));

template <typename T>
T narrow(Wide<T> value) {
  if constexpr (std::is_class_v<T>) {
    return encode<T>(value);
  } else if constexpr (std::is_same_v<T, float>) {
    return std::isnan(value) ? as<float>(0x7fffffff) : value;
  } else {
    return value;
  }
}

// By the bits, for g++ 12 fails when it vectorizes std::signbit.
template <typename T>
constexpr uint64_t kSignBit = uint64_t(1) << (8 * sizeof(T) - 1);
template <typename T>
bool is_negative(T x) {
  return bits_of(x) & kSignBit<T>;
}
template <typename T>
T with_sign(T x, bool negative) {
  return as<T>((bits_of(x) & ~kSignBit<T>) | (negative ? kSignBit<T> : 0));
}

// .ftz: a subnormal number, whose exponent's field is 0, becomes a zero of its sign.
template <typename T>
T flush(T x) {
  if constexpr (std::is_class_v<T>) {
    return (bits_of(x) & ~kSignBit<T>) < T::kImplicit ? with_sign(T(), is_negative(x)) : x;
  } else {
    return std::fabs(x) < std::numeric_limits<T>::min() ? with_sign(T(), is_negative(x)) : x;
  }
}

// .sat and .relu of a floating-point result.
template <typename W>
W saturate(W value) {
  return value > 0 ? std::min(value, W(1)) : 0;
}
template <typename W>
W rectify(W value) {
  return value <= 0 ? 0 : value;  // NaN stays
}

// Arithmetic that wraps around: in the unsigned type that C++ computes T in.
template <typename T>
auto wrapping(T x) {
  return std::make_unsigned_t<decltype(x + x)>(x);
}

// Two values in one register.
template <typename T>
struct Pair {
  T low, high;
};
template <typename T>
constexpr bool kIsPair = false;
template <typename T>
constexpr bool kIsPair<Pair<T>> = true;

// f, on each half where T is a Pair.
template <typename T, typename F>
auto on_elements(F f) {
  if constexpr (kIsPair<T>) {
    return [f](auto... pairs) {
      return Pair<decltype(f(pairs.low...))>{f(pairs.low...), f(pairs.high...)};
    };
  } else {
    return f;
  }
}

template <typename T>
std::string name_of(T) {
  const char letter = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 's' : 'u';
  return letter + std::to_string(8 * sizeof(T));
}
inline std::string name_of(bool) { return "pred"; }
inline std::string name_of(F16) { return "f16"; }
inline std::string name_of(BF16) { return "bf16"; }
inline std::string name_of(E4M3) { return "e4m3"; }
inline std::string name_of(E5M2) { return "e5m2"; }
template <typename T>
std::string name_of(Pair<T> pair) {
  return name_of(pair.low) + "x2";
}

template <typename... T>
struct Types {};
using Words = Types<uint16_t, uint32_t, uint64_t>;
using Integers = Types<uint16_t, uint32_t, uint64_t, int16_t, int32_t, int64_t>;
using Floats = Types<float, double, F16, BF16, Pair<float>, Pair<F16>, Pair<BF16>>;

// Calls f with a value of the type, of those given, that has this name.
template <typename... T, typename F>
void with_type(Types<T...>, const std::string& name, F&& f) {
  if (!((name == name_of(T()) && (f(T()), true)) || ...)) fail("no type for it: ." + name);
}

// .pred as it is, and of .b32, .f32 and others of which only the size matters the unsigned type.
inline std::string take_bits(Modifiers& modifiers) {
  const std::string type = modifiers.take_type();
  return type == "pred" ? type : "u" + type.substr(1);
}

template <typename... A, typename F, size_t... I>
void map_lanes(Warp& warp, const Instruction& instruction, const F& f, std::index_sequence<I...>) {
  const Operand* operands = instruction.operands.data();
  if (operands[0].kind == Operand::Kind::kSink) return;
  uint64_t* to = warp.lanes(operands[0]);
  const std::array<const uint64_t*, sizeof...(A)> from{warp.lanes(operands[I + 1])...};
  const std::array<bool, sizeof...(A)> negated{operands[I + 1].negated...};
  const auto source = [&](size_t i, int lane, auto type) {
    const bool flips = std::is_same_v<decltype(type), bool> && negated[i];
    return as<decltype(type)>(from[i][lane] ^ uint64_t(flips));
  };
  const auto map = [&](int lane) { to[lane] = bits_of(f(source(I, lane, A())...)); };
  if (warp.active == kAllLanes) {
#pragma GCC ivdep  // though `to` may be one of `from`: lanes do not depend on each other
    for (int lane = 0; lane < kLanes; ++lane) map(lane);
  } else {
    for_lanes(warp.active, map);
  }
}

// Makes the instruction `f` of its operands from the second on, of types A, into the first.
template <typename... A, typename F>
void each(Instruction& instruction, F f) {
  expect_operands(instruction, 1 + sizeof...(A), 1 + sizeof...(A));
  for (size_t i = 1; i < instruction.operands.size(); ++i)
    if (instruction.operands[i].kind != Operand::Kind::kValue) fail("a source is not a value");
  instruction.run = [f](Warp& warp, const Instruction& instruction) {
    map_lanes<A...>(warp, instruction, f, std::index_sequence_for<A...>());
  };
}

// Makes the instruction `f` of N elements of the type that, of those allowed, has this name.
template <size_t N, typename Allowed, typename F>
void apply(Instruction& instruction, const std::string& type, F f) {
  with_type(Allowed(), type, [&](auto zero) {
    using T = decltype(zero);
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
