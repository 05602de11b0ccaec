// Arithmetic of integers and floating-point numbers. (PTX ISA, "Integer Arithmetic Instructions",
// "Floating Point Instructions", "Half Precision Floating-Point Instructions".)
//
// What names a rounding is exact. Of the .approx and .full instructions only a largest error is
// documented: here they are computed in double precision and rounded to nearest, so a test must
// allow for that error. Subnormal numbers are kept unless .ftz says otherwise.
//
// Left out: carries (add.cc, addc, ..), 24-bit and .hi.sat products, .u16x2 and .s16x2, min and max
// of three numbers, fma.oob, rcp and rsqrt .approx.ftz.f64, sums of mixed precision.
#include <functional>

#include "alu.h"

namespace emulator {
namespace {

using Floats = Types<float, double, F16, BF16, Pair<F16>, Pair<BF16>>;
using FloatsAndPairs = Types<float, double, F16, BF16, Pair<F16>, Pair<BF16>, Pair<float>>;

struct Style {
  Rounding rounding = Rounding::kNearest;
  bool ftz = false, sat = false, relu = false;
};

bool is_float(const std::string& type) { return type[0] == 'f' || type.substr(0, 2) == "bf"; }

bool take_ftz(Modifiers& modifiers, const std::string& type) {
  return type[0] == 'f' && type != "f64" && modifiers.take("ftz");
}

// `otherwise` is the rounding where none is named, null if one must be.
Style take_style(Modifiers& modifiers, const std::string& type, const char* otherwise) {
  std::vector<std::string> roundings = {"rn"};
  if (type == "f32" || type == "f64" || type == "f32x2") roundings = {"rn", "rz", "rm", "rp"};
  Style style;
  style.rounding = rounding_of(modifiers.take_one(roundings, otherwise));
  style.ftz = take_ftz(modifiers, type);
  return style;
}

// Makes the instruction `f` of N Wide values.
template <size_t N, typename Allowed, typename F>
void compute(Instruction& instruction, const std::string& type, Style style, F f) {
  if (style.ftz || style.sat || style.relu) {
    apply<N, Allowed>(instruction, type, [f, style](auto... x) {
      using T = std::common_type_t<decltype(x)...>;
      Wide<T> wide = f(widen(style.ftz ? flush(x) : x)...);
      if (style.sat) wide = saturate(wide);
      if (style.relu) wide = rectify(wide);
      const T result = narrow<T>(wide);
      return style.ftz ? flush(result) : result;
    });
  } else {  // the same, in a loop that g++ vectorizes
    apply<N, Allowed>(instruction, type, [f](auto... x) {
      return narrow<std::common_type_t<decltype(x)...>>(f(widen(x)...));
    });
  }
  run_rounding(instruction, style.rounding);
}

// add, sub, mul, fma of floating-point numbers.
template <size_t N, typename F>
void compute_sum(Modifiers& modifiers, Instruction& instruction, const std::string& type, F f) {
  constexpr bool kFma = N == 3;
  Style style = take_style(modifiers, type, kFma ? nullptr : "rn");
  style.sat = (type == "f32" || type == "f16" || type == "f16x2") && modifiers.take("sat");
  const bool is_half = type.find("16") != std::string::npos;
  style.relu = kFma && is_half && !style.sat && modifiers.take("relu");
  compute<N, FloatsAndPairs>(instruction, type, style, f);
}

template <typename Operation>  // std::plus or std::minus
void decode_sum(Modifiers& modifiers, Instruction& instruction) {
  const Operation operation;
  const std::string type = modifiers.take_type();
  if (is_float(type)) {
    compute_sum<2>(modifiers, instruction, type, operation);
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

struct Fma {
  template <typename T>
  T operator()(T a, T b, T c) const {
    using std::fma;
    return fma(a, b, c);
  }
};

void decode_fma(Modifiers& modifiers, Instruction& instruction) {
  compute_sum<3>(modifiers, instruction, modifiers.take_type(), Fma());
}

// mul, or mad where kAdds.
template <bool kAdds>
void decode_product(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  if (kAdds && (type == "f32" || type == "f64")) {
    return compute_sum<3>(modifiers, instruction, type, Fma());
  }
  if (!kAdds && is_float(type)) {
    return compute_sum<2>(modifiers, instruction, type, std::multiplies<>());
  }
  const std::string part = modifiers.take_one({"lo", "hi", "wide"});
  with_type(Integers(), type, [&](auto tag) {
    using T = typename decltype(tag)::type;
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

// div, or rem where kRemainder, of integers. (PTX ISA, "div": "Division by zero yields an
// unspecified, machine-specific value"; GPUs give all ones, as remainder too.)
template <bool kRemainder>
void divide_integers(Instruction& instruction, const std::string& type) {
  apply<2, Integers>(instruction, type, [](auto a, auto b) {
    using T = decltype(a);
    if (b == 0) return T(-1);
    // The smallest number has no negative, and C++ no quotient for it.
    if (std::is_signed_v<T> && b == T(-1)) return T(kRemainder ? 0 : 0 - wrapping(a));
    return T(kRemainder ? a % b : a / b);
  });
}

void decode_rem(Modifiers& modifiers, Instruction& instruction) {
  divide_integers<true>(instruction, modifiers.take_type());
}

void decode_div(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  if (!is_float(type)) return divide_integers<false>(instruction, type);
  const bool is_approximate = modifiers.take("approx");
  if (!is_approximate && !modifiers.take("full")) {
    return compute<2, Types<float, double>>(instruction, type, take_style(modifiers, type, nullptr),
                                            std::divides<>());
  }
  Style style;
  style.ftz = take_ftz(modifiers, type);
  compute<2, Types<float>>(instruction, type, style, [is_approximate](float a, float b) {
    // PTX ISA, "div": .approx multiplies by a reciprocal, which is zero beyond 2^126.
    const bool vanishes = is_approximate && std::fabs(b) > 0x1p126f && !std::isinf(b);
    return float(vanishes ? a * std::copysign(0.0, b) : double(a) / b);
  });
}

struct Reciprocal {
  template <typename T>
  T operator()(T x) const {
    return 1 / x;
  }
};

struct Root {
  template <typename T>
  T operator()(T x) const {
    return std::sqrt(x);
  }
};

// rcp or sqrt, either rounded or approximate.
template <typename F>
void decode_root(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  if (modifiers.take("approx")) {
    Style style;
    style.ftz = take_ftz(modifiers, type);
    compute<1, Types<float>>(instruction, type, style,
                             [](float x) { return float(F()(double(x))); });
  } else {
    compute<1, Types<float, double>>(instruction, type, take_style(modifiers, type, nullptr), F());
  }
}

double reciprocal_root(double x) { return 1 / std::sqrt(x); }

// The functions that exist as approximations only.
template <double (*function)(double), typename... Allowed>
void decode_function(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  modifiers.take_one({"approx"});
  Style style;
  if (type == "f32" && function != ::tanh) {
    style.ftz = modifiers.take("ftz");
  } else if (type.substr(0, 2) == "bf" && function == ::exp2) {
    style.ftz = !modifiers.take_one({"ftz"}).empty();  // there is no other form
  }
  compute<1, Types<Allowed...>>(instruction, type, style,
                                [](auto x) { return decltype(x)(function(x)); });
}

// abs or neg.
template <bool kAbsolute>
void decode_sign(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  if (is_float(type)) {
    const bool ftz = take_ftz(modifiers, type);
    apply<1, Floats>(instruction, type, [ftz](auto x) {
      return with_sign(ftz ? flush(x) : x, !kAbsolute && !is_negative(x));
    });
  } else {
    apply<1, Types<int16_t, int32_t, int64_t>>(instruction, type, [](auto x) {
      return decltype(x)(kAbsolute && x >= 0 ? x : 0 - wrapping(x));
    });
  }
}

void decode_copysign(Modifiers& modifiers, Instruction& instruction) {
  apply<2, Types<float, double>>(instruction, modifiers.take_type(),
                                 [](auto sign, auto x) { return with_sign(x, is_negative(sign)); });
}

// The smaller of two numbers, or the larger. -0 is smaller than +0; a NaN gives way to a number
// unless `nan_wins`.
template <bool kSmaller, typename T>
T select(T a, T b, bool nan_wins) {
  const auto x = widen(a), y = widen(b);
  const bool a_is_nan = x != x, b_is_nan = y != y;
  if (a_is_nan || b_is_nan) {
    const bool takes_a = b_is_nan ? a_is_nan || !nan_wins : nan_wins;
    return narrow<T>(takes_a ? x : y);
  }
  const bool a_is_smaller = x < y || (x == y && is_negative(a));
  return a_is_smaller == kSmaller ? a : b;
}

// min or max.
template <bool kSmaller>
void decode_select(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  if (!is_float(type)) {
    const bool relu = type == "s32" && modifiers.take("relu");
    return apply<2, Integers>(instruction, type, [relu](auto a, auto b) {
      const auto selected = kSmaller ? std::min(a, b) : std::max(a, b);
      return relu ? std::max(selected, decltype(a)(0)) : selected;
    });
  }
  const bool ftz = take_ftz(modifiers, type);
  const bool nan_wins = type != "f64" && modifiers.take("NaN");
  const bool xorsign = type != "f64" && modifiers.take("xorsign");
  if (xorsign) modifiers.take_one({"abs"});
  apply<2, Floats>(instruction, type, [=](auto a, auto b) {
    if (ftz) a = flush(a), b = flush(b);
    if (!xorsign) return select<kSmaller>(a, b, nan_wins);
    const auto selected = select<kSmaller>(with_sign(a, false), with_sign(b, false), nan_wins);
    const auto wide = widen(selected);
    return wide == wide ? with_sign(selected, is_negative(a) != is_negative(b)) : selected;
  });
}

}  // namespace

void add_arithmetic_decoders(Decoders& decoders) {
  decoders["add"] = decode_sum<std::plus<>>;
  decoders["sub"] = decode_sum<std::minus<>>;
  decoders["mul"] = decode_product<false>;
  decoders["mad"] = decode_product<true>;
  decoders["fma"] = decode_fma;
  decoders["div"] = decode_div;
  decoders["rem"] = decode_rem;
  decoders["rcp"] = decode_root<Reciprocal>;
  decoders["sqrt"] = decode_root<Root>;
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
