// Comparisons, and selections by them. (PTX ISA, "Comparison and Selection Instructions", "Half
// Precision Comparison Instructions", "Floating Point Instructions: testp".)
#include "alu.h"

namespace emulator {
namespace {

using Numbers = Types<uint16_t, uint32_t, uint64_t, int16_t, int32_t, int64_t, float, double, F16,
                      BF16, Pair<F16>, Pair<BF16>>;

// How two values relate; an operator is the set of relations for which it holds.
enum Relation { kLess = 1, kEqual = 2, kGreater = 4, kUnordered = 8 };

struct Operator {
  std::string name, name_if_unsigned;
  int relations;
};
const Operator kOperators[] = {
    {"eq", "", kEqual},           {"ne", "", kLess | kGreater}, {"lt", "lo", kLess},
    {"le", "ls", kLess | kEqual}, {"gt", "hi", kGreater},       {"ge", "hs", kGreater | kEqual},
};

// The modifiers of a comparison of values of a type.
struct Test {
  Test(Modifiers& modifiers, const std::string& type) {
    relations = take_relations(modifiers, type);
    join = modifiers.take_one({"and", "or", "xor"}, "")[0];
    ftz = (type.substr(0, 3) == "f32" || type.substr(0, 3) == "f16") && modifiers.take("ftz");
  }

  static int take_relations(Modifiers& modifiers, const std::string& type) {
    const bool is_float = type.find('f') != std::string::npos;
    for (const auto& [name, name_if_unsigned, relations] : kOperators) {
      if (type[0] == 'b' && !is_float && !name_if_unsigned.empty()) continue;  // bits are not less
      if (modifiers.take(name)) return relations;
      if (type[0] == 'u' && modifiers.take(name_if_unsigned)) return relations;
      if (is_float && modifiers.take(name + "u")) return relations | kUnordered;
    }
    if (is_float && modifiers.take("num")) return kLess | kEqual | kGreater;
    if (is_float && modifiers.take("nan")) return kUnordered;
    fail("needs a comparison");
  }

  template <typename T>
  bool holds(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      return relations & (a < b ? kLess : a == b ? kEqual : kGreater);
    } else {
      const auto x = widen(ftz ? flush(a) : a), y = widen(ftz ? flush(b) : b);
      return relations & (x < y ? kLess : x == y ? kEqual : x > y ? kGreater : kUnordered);
    }
  }

  bool joined(bool result, bool predicate) const {
    switch (join) {
      case 'a':
        return result && predicate;
      case 'o':
        return result || predicate;
      case 'x':
        return result != predicate;
      default:
        return result;
    }
  }

  int relations;
  char join;  // of .and, .or, .xor, with a predicate as third source; or 0
  bool ftz;
};

// .b16 and the like are compared as unsigned.
std::string compared(const std::string& type) {
  return type[0] == 'b' && type[1] != 'f' ? "u" + type.substr(1) : type;
}

// setp p|q, a, b, c: q is of the opposite result, or of the high half where a and b are pairs.
void decode_setp(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type();
  const Test test(modifiers, type);
  const size_t sources = test.join ? 3 : 2;
  expect_operands(instruction, sources + 1, sources + 2);
  const size_t first = instruction.operands.size() - sources;
  expect_values(instruction, first);
  const auto set = [&](auto tag) {
    using T = typename decltype(tag)::type;
    instruction.run = [test, first](Warp& warp, const Instruction& instruction) {
      const Operand* operands = instruction.operands.data();
      const auto lanes = [&](size_t i) -> uint64_t* {
        return operands[i].kind == Operand::Kind::kSink ? nullptr : warp.lanes(operands[i]);
      };
      uint64_t *p = lanes(0), *q = first == 2 ? lanes(1) : nullptr;
      const uint64_t *a = lanes(first), *b = lanes(first + 1);
      const uint64_t* c = test.join ? lanes(first + 2) : nullptr;
      for_lanes(warp.active, [&](int lane) {
        const T x = read<T>(a[lane]), y = read<T>(b[lane]);
        const bool predicate = c && read<bool>(c[lane], operands[first + 2].negated);
        bool result, other;
        if constexpr (ElementOf<T>::kIsPair) {
          result = test.holds(x.low, y.low), other = test.holds(x.high, y.high);
        } else {
          result = test.holds(x, y), other = !result;
        }
        if (p) p[lane] = test.joined(result, predicate);
        if (q) q[lane] = test.joined(other, predicate);
      });
    };
  };
  with_type(Numbers(), compared(type), set);
}

// What set writes for true: all ones, or the number 1. From a pair it writes a pair of 16 bits.
uint32_t true_of(const std::string& type) {
  static const std::map<std::string, uint32_t> values = {
      {"u16", ~0u},    {"s16", ~0u},     {"u32", ~0u},      {"s32", ~0u},      {"f32", 0x3f800000},
      {"f16", 0x3c00}, {"bf16", 0x3f80}, {"f16x2", 0x3c00}, {"bf16x2", 0x3f80}};
  const auto found = values.find(type);
  if (found == values.end()) fail("does not write ." + type);
  return found->second;
}

void decode_set(Modifiers& modifiers, Instruction& instruction) {
  const uint32_t value = true_of(modifiers.take_type());
  const std::string type = modifiers.take_type();
  const Test test(modifiers, type);
  const auto element = [test, value](auto a, auto b, bool c) {
    return test.joined(test.holds(a, b), c) ? value : 0;
  };
  const auto write = [element](auto a, auto b, bool c = false) {
    if constexpr (ElementOf<decltype(a)>::kIsPair) {
      return Pair<uint16_t>{uint16_t(element(a.low, b.low, c)),
                            uint16_t(element(a.high, b.high, c))};
    } else {
      return element(a, b, c);
    }
  };
  with_type(Numbers(), compared(type), [&](auto tag) {
    using T = typename decltype(tag)::type;
    test.join ? each<T, T, bool>(instruction, write) : each<T, T>(instruction, write);
  });
}

void decode_selp(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = take_size(modifiers, kRegisterTypes);
  with_type(Words(), type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    each<T, T, bool>(instruction, [](T a, T b, bool c) { return c ? a : b; });
  });
}

// slct d, a, b, c: a where c >= 0, which -0 is and NaN is not.
void decode_slct(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take_type(), sign_type = modifiers.take_type();
  const bool ftz = sign_type == "f32" && modifiers.take("ftz");
  with_type(Words(), "u" + type.substr(1), [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_type(Types<int32_t, float>(), sign_type, [&](auto sign_tag) {
      using Sign = typename decltype(sign_tag)::type;
      each<T, T, Sign>(instruction, [ftz](T a, T b, Sign c) {
        if constexpr (std::is_same_v<Sign, float>) c = ftz ? flush(c) : c;
        return c >= 0 ? a : b;
      });
    });
  });
}

void decode_testp(Modifiers& modifiers, Instruction& instruction) {
  // PTX ISA, "testp": zeros are normal numbers.
  constexpr int kNormal = 1 << FP_NORMAL | 1 << FP_ZERO, kSubnormal = 1 << FP_SUBNORMAL;
  constexpr int kInfinite = 1 << FP_INFINITE, kNan = 1 << FP_NAN;
  static const std::map<std::string, int> tests = {{"finite", kNormal | kSubnormal},
                                                   {"infinite", kInfinite},
                                                   {"number", kNormal | kSubnormal | kInfinite},
                                                   {"notanumber", kNan},
                                                   {"normal", kNormal},
                                                   {"subnormal", kSubnormal}};
  const std::string type = modifiers.take_type();
  const auto test = tests.find(modifiers.take_next());
  if (test == tests.end()) fail("needs a test");
  apply<1, Types<float, double>>(instruction, type, [classes = test->second](auto x) {
    return (classes >> std::fpclassify(x) & 1) != 0;
  });
}

}  // namespace

void add_compare_decoders(Decoders& decoders) {
  decoders["setp"] = decode_setp;
  decoders["set"] = decode_set;
  decoders["selp"] = decode_selp;
  decoders["slct"] = decode_slct;
  decoders["testp"] = decode_testp;
}

}  // namespace emulator
