// cvt. (PTX ISA, "Data Movement and Conversion Instructions: cvt" and "cvt.pack".)
//
// Left out: stochastic rounding (.rs), the formats of 4 and 6 bits, .ue8m0x2, .s2f6x2; and of
// cvt.pack results of 2 and 4 bits.
#include <cfloat>
#include <limits>

#include "alu.h"

namespace emulator {
namespace {

using Scalars = Types<uint8_t, uint16_t, uint32_t, uint64_t, int8_t, int16_t, int32_t, int64_t,
                      float, double, F16, BF16>;
using TF32 = SmallFloat<8, 10, true, uint32_t>;

struct Conversion {
  Rounding rounding = Rounding::kNearest;
  bool to_integer = false;  // a floating-point number remains one, but integral
  bool ftz = false, sat = false, relu = false, satfinite = false;
};

template <typename S>
S to_small(double value, const Conversion& how) {
  return encode<S>(how.relu ? rectify(value) : value, how.rounding, how.satfinite);
}

// An integer as a double, exact or rounded to odd.
template <typename S>
Odd to_odd(S value) {
  using Long = std::conditional_t<std::is_signed_v<S>, int64_t, uint64_t>;
  return Odd(double(Long(value) >> 32) * 0x1p32) + Odd(double(uint32_t(value)));
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
  const auto wide = [&] {
    if constexpr (!std::is_integral_v<S>) {
      return Wide<D>(widen(flush_float(x, how)));
    } else if constexpr (std::is_class_v<D>) {
      return to_odd(x);
    } else {
      return D(x);
    }
  };
  Wide<D> value = wide();
  if (how.to_integer) value = Wide<D>(round_to_integer(value, how.rounding));
  if (how.sat) value = saturate(value);
  if constexpr (std::is_class_v<D>) {
    return to_small<D>(value, how);
  } else {
    return flush_float(narrow<D>(value), how);
  }
}

// Whether D lacks some value of S, both being integers.
template <typename D, typename S>
constexpr bool may_overflow() {
  using To = std::numeric_limits<D>;
  using From = std::numeric_limits<S>;
  return From::digits > To::digits || (From::is_signed && !To::is_signed);
}

// Takes the modifiers that a conversion between these types may have.
template <typename D, typename S>
Conversion take_conversion(Modifiers& modifiers) {
  constexpr bool kToInteger = std::is_integral_v<D>, kFromInteger = std::is_integral_v<S>;
  constexpr bool kFromFloat = std::is_same_v<S, float>;
  const std::vector<std::string> integral = {"rni", "rzi", "rmi", "rpi"};
  std::vector<std::string> rounded = {"rn", "rz", "rm", "rp"};
  Conversion how;
  if (std::is_class_v<D> && kFromFloat) {
    how.relu = modifiers.take("relu");
    how.satfinite = modifiers.take("satfinite");
  }
  const bool is_plain = !how.relu && !how.satfinite;  // the others have fewer modifiers
  if (!is_plain) rounded = {"rn", "rz"};
  how.ftz = (kFromFloat || std::is_same_v<D, float>) && is_plain && modifiers.take("ftz");
  if constexpr (kToInteger && kFromInteger) {
    how.sat = may_overflow<D, S>() && modifiers.take("sat");
  } else if (kToInteger) {
    modifiers.take("sat");  // which they do anyway
    how.rounding = rounding_of(modifiers.take_one(integral));
  } else {
    how.sat = !std::is_same_v<D, BF16> && is_plain && modifiers.take("sat");
    if (std::is_same_v<D, S>) {
      const std::string rounding = modifiers.take_one(integral, "");
      how.to_integer = !rounding.empty();
      if (how.to_integer) how.rounding = rounding_of(rounding);
    } else if (kFromInteger || sizeof(D) <= sizeof(S)) {
      const bool optional = !kFromInteger && sizeof(D) == sizeof(S);  // between f16 and bf16
      how.rounding = rounding_of(modifiers.take_one(rounded, optional ? "rn" : nullptr));
    }
  }
  return how;
}

void decode_scalar(Modifiers& modifiers, Instruction& instruction, const std::string& to,
                   const std::string& from) {
  with_type(Scalars(), to, [&](auto to_tag) {
    with_type(Scalars(), from, [&](auto from_tag) {
      using D = typename decltype(to_tag)::type;
      using S = typename decltype(from_tag)::type;
      const Conversion how = take_conversion<D, S>(modifiers);
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
void decode_pair(Modifiers& modifiers, Instruction& instruction, const std::string& to,
                 const std::string& from) {
  using Pairs = Types<Pair<F16>, Pair<BF16>, Pair<E4M3>, Pair<E5M2>>;
  const bool to_8_bits = to[0] == 'e', from_8_bits = from[0] == 'e';
  if (from != "f32" && (to_8_bits == from_8_bits || to == "bf16x2")) fail("no such conversion");
  Conversion how;
  how.relu = modifiers.take("relu");
  if (to_8_bits) {
    how.satfinite = !modifiers.take_one({"satfinite"}).empty();  // there is no other form
  } else {
    how.satfinite = !from_8_bits && modifiers.take("satfinite");
  }
  std::vector<std::string> roundings = {"rn"};
  if (!to_8_bits && !from_8_bits) roundings.push_back("rz");
  how.rounding = rounding_of(modifiers.take_one(roundings));
  with_type(Pairs(), to, [&](auto to_tag) {
    using D = Element<typename decltype(to_tag)::type>;
    if (from == "f32") {
      each<float, float>(instruction, [how](float high, float low) {
        return Pair<D>{to_small<D>(low, how), to_small<D>(high, how)};
      });
    } else {
      apply<1, Pairs>(instruction, from, [how](auto x) { return to_small<D>(decode(x), how); });
    }
  });
}

void decode_tf32(Modifiers& modifiers, Instruction& instruction) {
  const std::string rounding = modifiers.take_one({"rna", "rn", "rz"});
  Conversion how;
  how.rounding = rounding_of(rounding);
  how.satfinite = modifiers.take("satfinite");
  how.relu = rounding != "rna" && modifiers.take("relu");
  each<float>(instruction, [how](float x) {
    return to_small<TF32>(x, how).bits << (FLT_MANT_DIG - 1 - TF32::kFraction);  // as a float
  });
}

// cvt.pack d, a, b, c: a above b, and where they are bytes, c above both.
void decode_pack(Modifiers& modifiers, Instruction& instruction) {
  modifiers.take_one({"sat"});
  const std::string to = modifiers.take_type();
  modifiers.take_one({"s32"});
  with_type(Types<uint8_t, uint16_t, int8_t, int16_t>(), to, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto pack = [](int32_t a, int32_t b, uint32_t c = 0) {
      Conversion how;
      how.sat = true;
      const uint64_t high = written(convert_to_integer<T>(a, how));
      const uint64_t low = written(convert_to_integer<T>(b, how));
      constexpr int kBits = 8 * sizeof(T);
      return uint32_t(uint64_t(c) << 2 * kBits | high << kBits | low);
    };
    if constexpr (sizeof(T) == 1) {
      modifiers.take_one({"b32"});
      each<int32_t, int32_t, uint32_t>(instruction, pack);
    } else {
      each<int32_t, int32_t>(instruction, pack);
    }
  });
}

void decode_cvt(Modifiers& modifiers, Instruction& instruction) {
  if (modifiers.take("pack")) return decode_pack(modifiers, instruction);
  const std::string to = modifiers.take_type(), from = modifiers.take_type();
  if (to.find("x2") != std::string::npos) {
    decode_pair(modifiers, instruction, to, from);
  } else if (to == "tf32" && from == "f32") {
    decode_tf32(modifiers, instruction);
  } else {
    decode_scalar(modifiers, instruction, to, from);
  }
}

}  // namespace

void add_convert_decoders(Decoders& decoders) { decoders["cvt"] = decode_cvt; }

}  // namespace emulator
