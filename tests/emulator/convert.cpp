// cvt. (PTX ISA, "Data Movement and Conversion Instructions: cvt".)
//
// Left out: stochastic rounding (.rs), the formats of 4 and 6 bits, .ue8m0x2, .s2f6x2, cvt.pack.
#include <limits>

#include "alu.h"

namespace emulator {
namespace {

using Scalars = Types<uint8_t, uint16_t, uint32_t, uint64_t, int8_t, int16_t, int32_t, int64_t,
                      float, double, F16, BF16>;

struct Conversion {
  explicit Conversion(Modifiers& modifiers)
      : ftz(modifiers.take("ftz")),
        sat(modifiers.take("sat")),
        relu(modifiers.take("relu")),
        satfinite(modifiers.take("satfinite")) {
    const std::string name =
        modifiers.take_one({"rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"}, "rn");
    rounding = rounding_of(name);
    to_integer = name.back() == 'i';
  }

  bool ftz, sat, relu, satfinite;
  Rounding rounding;
  bool to_integer;  // a floating-point number remains one, but integral
};

template <typename S>
S to_small(double value, const Conversion& how) {
  return encode<S>(how.relu ? rectify(value) : value, how.rounding, how.satfinite);
}

// PTX ISA, "cvt": .ftz "applies only to single precision (.f32) inputs and results".
template <typename T>
T flush_float(T x, const Conversion& how) {
  if constexpr (std::is_same_v<T, float>) return how.ftz ? flush(x) : x;
  return x;
}

template <typename D, typename S>
D convert_to_integer(S x, const Conversion& how) {
  constexpr D kLeast = std::numeric_limits<D>::min(), kMost = std::numeric_limits<D>::max();
  if constexpr (std::is_integral_v<S>) {
    return how.sat ? D(std::clamp<__int128>(x, kLeast, kMost)) : D(x);
  } else {
    const double value = round_to_integer(widen(flush_float(x, how)), how.rounding);
    // "Zero if source is not .f64 and destination is not .s64, .u64", else the topmost bit.
    constexpr bool kNanIsZero = !std::is_same_v<S, double> && sizeof(D) < 8;
    if (std::isnan(value)) return kNanIsZero ? D(0) : D(uint64_t(1) << (8 * sizeof(D) - 1));
    // double(kMost) may be kMost + 1, which is out of range as well.
    return value <= double(kLeast) ? kLeast : value >= double(kMost) ? kMost : D(value);
  }
}

// To float and double the CPU rounds, in its present mode.
template <typename D, typename S>
D convert_to_float(S x, const Conversion& how) {
  Wide<D> value;
  if constexpr (!std::is_integral_v<S>) {
    value = Wide<D>(widen(flush_float(x, how)));
  } else if constexpr (std::is_class_v<D> && sizeof(S) == 8) {  // more bits than a double has
    using High = std::conditional_t<std::is_signed_v<S>, int32_t, uint32_t>;
    value = add_to_odd(High(x >> 32) * 0x1p32, uint32_t(x));
  } else {
    value = Wide<D>(x);
  }
  if (how.to_integer) value = Wide<D>(round_to_integer(value, how.rounding));
  if (how.sat) value = saturate(value);
  if constexpr (std::is_class_v<D>) {
    return to_small<D>(value, how);
  } else {
    return flush_float(narrow<D>(value), how);
  }
}

void decode_scalar(Instruction& instruction, const Conversion& how, const std::string& to,
                   const std::string& from) {
  with_type(Scalars(), to, [&](auto to_zero) {
    with_type(Scalars(), from, [&](auto from_zero) {
      using D = decltype(to_zero);
      using S = decltype(from_zero);
      if constexpr (std::is_integral_v<D>) {
        // Signed results are extended to the register, which may be wider.
        using Extended = std::conditional_t<std::is_signed_v<D>, int64_t, D>;
        each<S>(instruction, [how](S x) { return Extended(convert_to_integer<D>(x, how)); });
      } else {
        each<S>(instruction, [how](S x) { return convert_to_float<D>(x, how); });
        if (!std::is_class_v<D> && !how.to_integer) run_rounding(instruction, how.rounding);
      }
    });
  });
}

// To and from pairs. Of two sources the first becomes the high half.
void decode_pair(Instruction& instruction, const Conversion& how, const std::string& to,
                 const std::string& from) {
  with_type(Types<Pair<F16>, Pair<BF16>, Pair<E4M3>, Pair<E5M2>>(), to, [&](auto zero) {
    using D = decltype(zero.low);
    if (from == "f32") {
      each<float, float>(instruction, [how](float high, float low) {
        return Pair<D>{to_small<D>(low, how), to_small<D>(high, how)};
      });
    } else {
      apply<1, Types<Pair<F16>, Pair<E4M3>, Pair<E5M2>>>(
          instruction, from, [how](auto x) { return to_small<D>(decode(x), how); });
    }
  });
}

void decode_cvt(Modifiers& modifiers, Instruction& instruction) {
  const Conversion how(modifiers);
  const std::string to = modifiers.take_type(), from = modifiers.take_type();
  if (to.find("x2") != std::string::npos) {
    decode_pair(instruction, how, to, from);
  } else if (to == "tf32" && from == "f32") {
    each<float>(instruction, [how](float x) { return to_small<TF32>(x, how).bits << kTf32Shift; });
  } else {
    decode_scalar(instruction, how, to, from);
  }
}

}  // namespace

void add_convert_decoders(Decoders& decoders) { decoders["cvt"] = decode_cvt; }

}  // namespace emulator
