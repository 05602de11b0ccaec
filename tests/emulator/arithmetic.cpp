// Arithmetic of integers and floating-point numbers. (PTX ISA, "Integer Arithmetic Instructions",
// "Extended-Precision Integer Arithmetic Instructions", "Floating Point Instructions", "Half
// Precision Floating-Point Instructions".)
//
// What names a rounding is exact. Of the .approx and .full instructions only a largest error is
// documented: here they are computed in double precision or exactly, and rounded to nearest, so a
// test must allow for that error; nor is div.approx zero for divisors beyond 2^126. Subnormal
// numbers are kept unless .ftz says otherwise.
//
// Left out: 24-bit and .hi.sat products, .u16x2 and .s16x2, min and max of three numbers, fma.oob,
// testp, sums of mixed precision.
#include <functional>

#include "alu.h"

namespace emulator {
namespace {

bool is_float(const std::string& type) { return type[0] == 'f' || type.substr(0, 2) == "bf"; }

// Makes the instruction `f` of N Wide values, with the modifiers of floating-point arithmetic.
template <size_t N, typename Allowed, typename F>
void compute(Modifiers& modifiers, Instruction& instruction, const std::string& type, F f) {
  const bool is_approximate = modifiers.take("approx") || modifiers.take("full");
  const std::string rounding =
      is_approximate ? "rn" : modifiers.take_one({"rn", "rz", "rm", "rp"}, "rn");
  const bool ftz = modifiers.take("ftz"), sat = modifiers.take("sat");
  const bool relu = modifiers.take("relu");
  if (ftz || sat || relu) {
    apply<N, Allowed>(instruction, type, [=](auto... x) {
      using T = std::common_type_t<decltype(x)...>;
      Wide<T> wide = f(widen(ftz ? flush(x) : x)...);
      if (sat) wide = saturate(wide);
      if (relu) wide = rectify(wide);
      const T result = narrow<T>(wide);
      return ftz ? flush(result) : result;
    });
  } else {  // the same, in a loop that g++ vectorizes
    apply<N, Allowed>(instruction, type, [f](auto... x) {
      return narrow<std::common_type_t<decltype(x)...>>(f(widen(x)...));
    });
  }
  run_rounding(instruction, rounding_of(rounding));
}

// Sums with a carry from the instruction before (addc, subc, madc) or to the next one (.cc). The
// words are unsigned, of signed types too; only the upper half of a product depends on signs.
void decode_carrying(Modifiers& modifiers, Instruction& instruction, const std::string& type,
                     bool carries_out) {
  const std::string& base = modifiers.base();
  const bool carries_in = base.back() == 'c', subtracts = base[0] == 's',
             multiplies = base[0] == 'm';
  const bool upper = multiplies && modifiers.take_one({"lo", "hi"}) == "hi";
  const size_t last = multiplies ? 3 : 2;
  expect_operands(instruction, last + 1, last + 1);
  for (const Operand& operand : instruction.operands)
    if (operand.kind != Operand::Kind::kValue) fail("an operand is not a value");
  with_type(Types<uint32_t, uint64_t, int32_t, int64_t>(), type, [&](auto zero) {
    using T = decltype(zero);
    using Word = std::make_unsigned_t<T>;
    using Double = unsigned __int128;
    constexpr int kBits = 8 * sizeof(T);
    instruction.run = [=](Warp& warp, const Instruction& at) {
      const uint64_t *a = warp.lanes(at.operands[1]), *b = warp.lanes(at.operands[2]);
      const uint64_t* addend = warp.lanes(at.operands[last]);
      uint64_t* const to = warp.lanes(at.operands[0]);
      for_lanes(warp.active, [&](int lane) {
        const Double product = Double(as<T>(a[lane])) * Double(as<T>(b[lane]));
        const Double x = multiplies ? Word(product >> (upper ? kBits : 0)) : as<Word>(a[lane]);
        const Double y = Double(as<Word>(addend[lane])) + (carries_in & warp.carry >> lane);
        const Double result = subtracts ? x - y : x + y;  // its bit kBits: the carry, or borrow
        to[lane] = Word(result);
        if (carries_out)
          warp.carry = (warp.carry & ~(1u << lane)) | uint32_t(result >> kBits & 1) << lane;
      });
    };
  });
}

void decode_carry_in(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  decode_carrying(modifiers, instruction, type, modifiers.take("cc"));
}

template <typename Operation>  // std::plus or std::minus
void decode_sum(Modifiers& modifiers, Instruction& instruction) {
  const Operation operation;
  const std::string type = modifiers.take_type();
  if (modifiers.take("cc")) return decode_carrying(modifiers, instruction, type, true);
  if (is_float(type)) {
    compute<2, Floats>(modifiers, instruction, type, operation);
  } else if (type == "s32" && modifiers.take("sat")) {
    each<int32_t, int32_t>(instruction, [operation](int64_t a, int64_t b) {
      return int32_t(std::clamp<int64_t>(operation(a, b), INT32_MIN, INT32_MAX));
    });
  } else {
    apply<2, Integers>(instruction, type, [operation](auto a, auto b) {
      return decltype(a)(operation(wrapping(a), wrapping(b)));
    });
  }
}

// mul; or mad and fma, where kAdds.
template <bool kAdds>
void decode_product(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  if (is_float(type) && !kAdds)
    return compute<2, Floats>(modifiers, instruction, type, std::multiplies<>());
  if (is_float(type) && type.find("16") == std::string::npos)
    return compute<3, Types<float, double, Pair<float>>>(
        modifiers, instruction, type, [](auto a, auto b, auto c) { return std::fma(a, b, c); });
  if (is_float(
          type))  // products of halves are exact in double, but sums may have more than 53 bits
    return compute<3, Types<F16, BF16, Pair<F16>, Pair<BF16>>>(
        modifiers, instruction, type,
        [](double a, double b, double c) { return add_to_odd(a * b, c); });
  if (kAdds && modifiers.take("cc")) return decode_carrying(modifiers, instruction, type, true);
  const std::string part = modifiers.take_one({"lo", "hi", "wide"});
  with_type(Integers(), type, [&](auto zero) {
    using T = decltype(zero);
    const auto set = [&](auto multiply) {
      using Result = decltype(multiply(T(), T()));
      if constexpr (kAdds) {
        each<T, T, Result>(instruction, [multiply](T a, T b, Result c) {
          return Result(wrapping(multiply(a, b)) + wrapping(c));
        });
      } else {
        each<T, T>(instruction, multiply);
      }
    };
    // Unsigned, which wraps around; the bits that remain are those of the signed product too.
    using Double = unsigned __int128;
    if (part == "lo") {
      set([](T a, T b) { return T(wrapping(a) * wrapping(b)); });
    } else if (part == "hi") {
      set([](T a, T b) { return T(Double(a) * Double(b) >> 8 * sizeof(T)); });
    } else if constexpr (sizeof(T) < 8) {
      using Wider = std::conditional_t<sizeof(T) == 2, uint32_t, uint64_t>;
      set([](T a, T b) { return Wider(Wider(a) * Wider(b)); });
    } else {
      fail("no .wide product of 64 bits");
    }
  });
}

// div, or rem where kRemainder. (PTX ISA, "div" of integers: "Division by zero yields an
// unspecified, machine-specific value"; GPUs give all ones, as remainder too.)
template <bool kRemainder>
void decode_quotient(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  if (is_float(type) && !kRemainder)
    return compute<2, Types<float, double>>(modifiers, instruction, type, std::divides<>());
  apply<2, Integers>(instruction, type, [](auto a, auto b) {
    using T = decltype(a);
    if (b == 0) return T(-1);
    // The smallest number has no negative, and C++ no quotient for it.
    if (std::is_signed_v<T> && b == T(-1)) return T(kRemainder ? 0 : 0 - wrapping(a));
    return T(kRemainder ? a % b : a / b);
  });
}

// rcp or sqrt.
template <bool kRoot>
void decode_root(Modifiers& modifiers, Instruction& instruction) {
  compute<1, Types<float, double>>(modifiers, instruction, modifiers.take_type(),
                                   [](auto x) { return kRoot ? std::sqrt(x) : 1 / x; });
}

double reciprocal_root(double x) { return 1 / std::sqrt(x); }

// The functions that exist as approximations only.
template <double (*function)(double), typename... Allowed>
void decode_function(Modifiers& modifiers, Instruction& instruction) {
  compute<1, Types<Allowed...>>(modifiers, instruction, modifiers.take_type(),
                                [](auto x) { return decltype(x)(function(x)); });
}

// abs or neg.
template <bool kAbsolute>
void decode_sign(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  if (is_float(type)) {
    apply<1, Floats>(instruction, type, [ftz = modifiers.take("ftz")](auto x) {
      return with_sign(ftz ? flush(x) : x, !kAbsolute && !is_negative(x));
    });
  } else {
    apply<1, Types<int16_t, int32_t, int64_t>>(instruction, type, [](auto x) {
      return decltype(x)(kAbsolute && x >= 0 ? x : 0 - wrapping(x));
    });
  }
}

// The magnitude of the second, with the sign of the first.
void decode_copysign(Modifiers& modifiers, Instruction& instruction) {
  apply<2, Types<float, double>>(instruction, modifiers.take_type(),
                                 [](auto a, auto b) { return with_sign(b, is_negative(a)); });
}

// The smaller of two numbers, or the larger. -0 is smaller than +0; a NaN gives way to a number
// unless `nan_wins`.
template <bool kSmaller, typename T>
T select(T a, T b, bool nan_wins) {
  const auto x = widen(a), y = widen(b);
  if (x != x || y != y) return narrow<T>((x != x) == nan_wins ? x : y);
  return (x < y || (x == y && is_negative(a))) == kSmaller ? a : b;
}

// min or max.
template <bool kSmaller>
void decode_select(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  if (!is_float(type)) {
    return apply<2, Integers>(instruction, type, [relu = modifiers.take("relu")](auto a, auto b) {
      const auto selected = kSmaller ? std::min(a, b) : std::max(a, b);
      return relu ? std::max(selected, decltype(a)(0)) : selected;
    });
  }
  const bool ftz = modifiers.take("ftz"), nan_wins = modifiers.take("NaN");
  const bool xorsign = modifiers.take("xorsign") && modifiers.take("abs");
  apply<2, Floats>(instruction, type, [=](auto a, auto b) {
    if (ftz) a = flush(a), b = flush(b);
    if (!xorsign) return select<kSmaller>(a, b, nan_wins);
    const auto selected = select<kSmaller>(with_sign(a, false), with_sign(b, false), nan_wins);
    const bool is_nan = widen(selected) != widen(selected);
    return is_nan ? selected : with_sign(selected, is_negative(a) != is_negative(b));
  });
}

void decode_sad(Modifiers& modifiers, Instruction& instruction) {
  apply<3, Integers>(instruction, modifiers.take_type(), [](auto a, auto b, auto c) {
    return decltype(a)(wrapping(c) + wrapping(std::max(a, b)) - wrapping(std::min(a, b)));
  });
}

}  // namespace

void add_arithmetic_decoders(Decoders& decoders) {
  decoders["add"] = decode_sum<std::plus<>>;
  decoders["sub"] = decode_sum<std::minus<>>;
  decoders["addc"] = decoders["subc"] = decoders["madc"] = decode_carry_in;
  decoders["mul"] = decode_product<false>;
  decoders["mad"] = decode_product<true>;
  decoders["fma"] = decode_product<true>;
  decoders["div"] = decode_quotient<false>;
  decoders["rem"] = decode_quotient<true>;
  decoders["sad"] = decode_sad;
  decoders["rcp"] = decode_root<false>;
  decoders["sqrt"] = decode_root<true>;
  decoders["rsqrt"] = decode_function<reciprocal_root, float, double>;
  decoders["sin"] = decode_function<::sin, float>;
  decoders["cos"] = decode_function<::cos, float>;
  decoders["lg2"] = decode_function<::log2, float>;
  decoders["ex2"] = decode_function<::exp2, float, F16, BF16, Pair<F16>, Pair<BF16>>;
  decoders["tanh"] = decode_function<::tanh, float, F16, BF16, Pair<F16>, Pair<BF16>>;
  decoders["abs"] = decode_sign<true>;
  decoders["neg"] = decode_sign<false>;
  decoders["copysign"] = decode_copysign;
  decoders["min"] = decode_select<true>;
  decoders["max"] = decode_select<false>;
}

}  // namespace emulator
