// Comparisons, and selections by them. (PTX ISA, "Comparison and Selection Instructions", "Half
// Precision Comparison Instructions".) Left out: setp of pairs, set with a predicate as source.
#include "alu.h"

namespace emulator {
namespace {

template <typename... More>
using Numbers = Types<uint16_t, uint32_t, uint64_t, int16_t, int32_t, int64_t, float, double, F16,
                      BF16, More...>;

// How two values relate; an operator is the set of relations for which it holds.
enum Relation { kLess = 1, kEqual = 2, kGreater = 4, kUnordered = 8 };
const std::map<std::string, int> kOperators = {{"eq", kEqual},
                                               {"ne", kLess | kGreater},
                                               {"lt", kLess},
                                               {"lo", kLess},
                                               {"le", kLess | kEqual},
                                               {"ls", kLess | kEqual},
                                               {"gt", kGreater},
                                               {"hi", kGreater},
                                               {"ge", kGreater | kEqual},
                                               {"hs", kGreater | kEqual},
                                               {"num", kLess | kEqual | kGreater},
                                               {"nan", kUnordered}};

struct Comparison {
  explicit Comparison(Modifiers& modifiers) : ftz(modifiers.take("ftz")) {
    const std::string name = modifiers.take_next();
    const bool or_unordered = name.size() == 3 && name[2] == 'u';  // "equ", "neu", ..
    const auto found = kOperators.find(or_unordered ? name.substr(0, 2) : name);
    if (found == kOperators.end()) fail("needs a comparison");
    relations = found->second | (or_unordered ? kUnordered : 0);
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

  bool ftz;
  int relations;
};

// .b16 and the like are compared as unsigned.
std::string take_compared(Modifiers& modifiers) {
  const std::string type = modifiers.take_type();
  return type[0] == 'b' && type[1] != 'f' ? "u" + type.substr(1) : type;
}

// setp.compare.join p|q, a, b, c: q is of the opposite result.
void decode_setp(Modifiers& modifiers, Instruction& instruction) {
  const Comparison comparison(modifiers);
  const char join = modifiers.take_one({"and", "or", "xor"}, "")[0];
  const int sources = join ? 3 : 2, first = int(instruction.operands.size()) - sources;
  expect_operands(instruction, sources + 1, sources + 2);
  with_type(Numbers<>(), take_compared(modifiers), [&](auto zero) {
    using T = decltype(zero);
    instruction.run = [=](Warp& warp, const Instruction& at) {
      const Operand* from = &at.operands[first];
      const uint64_t *a = warp.lanes(from[0]), *b = warp.lanes(from[1]);
      const Operand& third = from[join ? 2 : 0];
      const uint64_t* c = warp.lanes(third);
      std::array<uint64_t*, 2> to{};
      for (int i = 0; i < first; ++i)
        if (at.operands[i].kind != Operand::Kind::kSink) to[i] = warp.lanes(at.operands[i]);
      for_lanes(warp.active, [&](int lane) {
        const bool result = comparison.holds(as<T>(a[lane]), as<T>(b[lane]));
        const bool with = as<bool>(c[lane]) != third.negated;
        for (const bool opposite : {false, true}) {
          const bool value = result != opposite;
          if (to[opposite])
            to[opposite][lane] = join == 'a'   ? value && with
                                 : join == 'o' ? value || with
                                 : join == 'x' ? value != with
                                               : value;
        }
      });
    };
  });
}

// set.compare.to.from: all ones for true, or the number 1; halves of a pair one by one.
void decode_set(Modifiers& modifiers, Instruction& instruction) {
  const Comparison comparison(modifiers);
  const std::string to = modifiers.take_type(), from = take_compared(modifiers);
  const uint32_t value = to == "f32"    ? 0x3f800000
                         : to[0] == 'b' ? 0x3f80
                         : to[0] == 'f' ? 0x3c00
                                        : ~0u;
  const bool is_short = to.find("16") != std::string::npos || from.find("x2") != std::string::npos;
  with_type(Types<uint16_t, uint32_t>(), is_short ? "u16" : "u32", [&](auto zero) {
    apply<2, Numbers<Pair<F16>, Pair<BF16>>>(instruction, from, [=](auto a, auto b) {
      return decltype(zero)(comparison.holds(a, b) ? value : 0);
    });
  });
}

void decode_selp(Modifiers& modifiers, Instruction& instruction) {
  with_type(Words(), take_bits(modifiers), [&](auto zero) {
    using T = decltype(zero);
    each<T, T, bool>(instruction, [](T a, T b, bool c) { return c ? a : b; });
  });
}

// slct d, a, b, c: a where c >= 0, which -0 is and NaN is not.
void decode_slct(Modifiers& modifiers, Instruction& instruction) {
  const bool ftz = modifiers.take("ftz");
  const std::string type = take_bits(modifiers), sign_type = modifiers.take_type();
  with_type(Words(), type, [&](auto zero) {
    using T = decltype(zero);
    with_type(Types<int32_t, float>(), sign_type, [&](auto sign) {
      using Sign = decltype(sign);
      each<T, T, Sign>(instruction, [ftz](T a, T b, Sign c) {
        if constexpr (std::is_same_v<Sign, float>) c = ftz ? flush(c) : c;
        return c >= 0 ? a : b;
      });
    });
  });
}

}  // namespace

void add_compare_decoders(Decoders& decoders) {
  decoders["setp"] = decode_setp;
  decoders["set"] = decode_set;
  decoders["selp"] = decode_selp;
  decoders["slct"] = decode_slct;
}

}  // namespace emulator
