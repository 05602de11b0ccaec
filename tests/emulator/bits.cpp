// Registers as bits: moved, combined, shifted, counted. (PTX ISA, "Logic and Shift Instructions",
// "Data Movement and Conversion Instructions: mov, prmt", and of "Integer Arithmetic Instructions"
// those that look at single bits or bytes.) Left out: fns.
#include <functional>

#include "alu.h"

namespace emulator {
namespace {

using PredicateOrWords = Types<bool, uint16_t, uint32_t, uint64_t>;
using LargeIntegers = Types<uint32_t, uint64_t, int32_t, int64_t>;

template <typename T>
constexpr uint32_t kBits = 8 * sizeof(T);

uint64_t low_bits(uint64_t value, uint32_t count) {
  return count < 64 ? value & ((uint64_t(1) << count) - 1) : value;
}

// mov {a, b, ..}, d: from the low bits up.
void unpack(Warp& warp, const Instruction& instruction, uint32_t bits) {
  std::array<uint64_t, kLanes> from;  // a copy, for it may be one of the destinations too
  std::copy_n(warp.lanes(instruction.operands[1]), kLanes, from.begin());
  uint32_t at = 0;
  for (const Operand& part : instruction.operands[0].parts) {
    if (part.kind == Operand::Kind::kValue) {
      uint64_t* to = warp.lanes(part);
      for_lanes(warp.active, [&](int lane) { to[lane] = low_bits(from[lane] >> at, bits); });
    }
    at += bits;
  }
}

// mov d, {a, b, ..}.
void pack(Warp& warp, const Instruction& instruction, uint32_t bits) {
  const std::vector<Operand>& parts = instruction.operands[1].parts;
  uint64_t* to = warp.lanes(instruction.operands[0]);
  for_lanes(warp.active, [&](int lane) {
    uint64_t value = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      value |= low_bits(warp.lanes(parts[i])[lane], bits) << (i * bits);
    }
    to[lane] = value;
  });
}

void decode_mov(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = modifiers.take("pred") ? "pred" : take_size(modifiers, kRegisterTypes);
  expect_operands(instruction, 2, 2);
  for (const auto move : {unpack, pack}) {
    const Operand& vector = instruction.operands[move == pack];
    if (vector.kind != Operand::Kind::kVector) continue;
    if (vector.parts.size() != 2 && vector.parts.size() != 4) fail("moves 2 or 4 parts");
    const uint32_t bits = 8 * bytes_of(type) / vector.parts.size();
    instruction.run = [move, bits](Warp& warp, const Instruction& instruction) {
      move(warp, instruction, bits);
    };
    return;
  }
  apply<1, PredicateOrWords>(instruction, type, [](auto x) { return x; });
}

struct Not {
  bool operator()(bool x) const { return !x; }
  template <typename T>
  T operator()(T x) const {
    return T(~x);
  }
};

template <size_t N, typename Operation>
void decode_logic(Modifiers& modifiers, Instruction& instruction) {
  const std::string type =
      modifiers.take("pred") ? "pred" : take_size(modifiers, {"b16", "b32", "b64"});
  apply<N, PredicateOrWords>(instruction, type, [](auto... x) {
    return std::common_type_t<decltype(x)...>(Operation()(x...));
  });
}

void decode_cnot(Modifiers& modifiers, Instruction& instruction) {
  apply<1, Words>(instruction, take_size(modifiers, {"b16", "b32", "b64"}),
                  [](auto x) { return decltype(x)(x == 0); });
}

uint32_t look_up(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int i = 0; i < 8; ++i) {
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return result;
}

// lop3 d, a, b, c, table; or with .and or .or, d|p, a, b, c, table, q.
void decode_lop3(Modifiers& modifiers, Instruction& instruction) {
  const std::string join = modifiers.take_one({"and", "or"}, "");
  modifiers.take_one({"b32"});
  if (join.empty()) return each<uint32_t, uint32_t, uint32_t, uint32_t>(instruction, look_up);
  expect_operands(instruction, 7, 7);
  Instruction word = instruction, predicate = instruction;
  word.operands.erase(word.operands.begin() + 1);
  word.operands.pop_back();
  predicate.operands.erase(predicate.operands.begin());
  each<uint32_t, uint32_t, uint32_t, uint32_t>(word, look_up);
  each<uint32_t, uint32_t, uint32_t, uint32_t, bool>(
      predicate,
      [is_and = join == "and"](uint32_t a, uint32_t b, uint32_t c, uint32_t table, bool q) {
        const bool any = look_up(a, b, c, table) != 0;
        return is_and ? any && q : any || q;
      });
  instruction.run = [word, predicate](Warp& warp, const Instruction&) {
    predicate.run(warp, predicate);  // first, for d may be one of the sources
    word.run(warp, word);
  };
}

void decode_shl(Modifiers& modifiers, Instruction& instruction) {
  with_type(Words(), take_size(modifiers, {"b16", "b32", "b64"}), [&](auto tag) {
    using T = typename decltype(tag)::type;
    each<T, uint32_t>(instruction, [](T x, uint32_t count) {
      return count < kBits<T> ? T(wrapping(x) << count) : T(0);
    });
  });
}

// x >> count, of however many: sign bits, or zeros, follow from above.
template <typename T>
T shift_right(T x, uint32_t count) {
  return T(x >> std::min(count, kBits<T> - 1) >> (count >= kBits<T>));
}

void decode_shr(Modifiers& modifiers, Instruction& instruction) {
  std::string type = modifiers.take_type();
  if (type[0] == 'b') type[0] = 'u';
  with_type(Integers(), type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    each<T, uint32_t>(instruction, shift_right<T>);
  });
}

// Shifts b:a.
void decode_shf(Modifiers& modifiers, Instruction& instruction) {
  const bool left = modifiers.take_one({"l", "r"}) == "l";
  const bool clamp = modifiers.take_one({"clamp", "wrap"}) == "clamp";
  modifiers.take_one({"b32"});
  each<uint32_t, uint32_t, uint32_t>(instruction, [=](uint32_t a, uint32_t b, uint32_t count) {
    count = clamp ? std::min(count, 32u) : count % 32;
    const uint64_t both = uint64_t(b) << 32 | a;
    return uint32_t(left ? both << count >> 32 : both >> count);
  });
}

// The low `count` bits, the topmost of them as sign.
template <typename T>
T extend(T x, uint32_t count) {
  if (count == 0) return 0;
  const uint32_t unused = kBits<T> - std::min(count, kBits<T>);
  return T(T(std::make_unsigned_t<T>(x) << unused) >> unused);
}

void decode_bfe(Modifiers& modifiers, Instruction& instruction) {
  with_type(LargeIntegers(), modifiers.take_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    each<T, uint32_t, uint32_t>(instruction, [](T x, uint32_t position, uint32_t length) {
      return extend(shift_right(x, position & 255), length & 255);
    });
  });
}

void decode_bfi(Modifiers& modifiers, Instruction& instruction) {
  with_type(Words(), take_size(modifiers, {"b32", "b64"}), [&](auto tag) {
    using T = typename decltype(tag)::type;
    each<T, T, uint32_t, uint32_t>(instruction, [](T a, T b, uint32_t position, uint32_t length) {
      position &= 255;
      if (position >= kBits<T>) return b;
      const T mask = T(low_bits(~uint64_t(0), length & 255) << position);
      return T((b & ~mask) | (wrapping(a) << position & mask));
    });
  });
}

void decode_szext(Modifiers& modifiers, Instruction& instruction) {
  const bool clamp = modifiers.take_one({"clamp", "wrap"}) == "clamp";
  apply<2, Types<uint32_t, int32_t>>(instruction, modifiers.take_type(), [clamp](auto x, auto n) {
    return extend(x, clamp ? uint32_t(n) : n & 31);
  });
}

void decode_bmsk(Modifiers& modifiers, Instruction& instruction) {
  const bool clamp = modifiers.take_one({"clamp", "wrap"}) == "clamp";
  modifiers.take_one({"b32"});
  each<uint32_t, uint32_t>(instruction, [clamp](uint32_t position, uint32_t length) {
    position = clamp ? std::min(position, 32u) : position & 31;
    length = clamp ? length : length & 31;
    return uint32_t(low_bits(~uint32_t(0), length) << position);
  });
}

void decode_bfind(Modifiers& modifiers, Instruction& instruction) {
  const bool is_shift = modifiers.take("shiftamt");
  apply<1, LargeIntegers>(instruction, modifiers.take_type(), [is_shift](auto x) {
    using T = decltype(x);
    const uint64_t unlike_sign = std::make_unsigned_t<T>(x < 0 ? ~x : x);
    if (unlike_sign == 0) return ~uint32_t(0);
    const uint32_t found = 63 - __builtin_clzll(unlike_sign);
    return is_shift ? kBits<T> - 1 - found : found;
  });
}

uint32_t count_ones(uint64_t x, uint32_t) { return __builtin_popcountll(x); }
uint32_t count_leading_zeros(uint64_t x, uint32_t bits) {
  return x == 0 ? bits : __builtin_clzll(x) - (64 - bits);
}
uint64_t reverse(uint64_t x, uint32_t bits) {
  uint64_t reversed = 0;
  for (uint32_t i = 0; i < bits; ++i) reversed = reversed << 1 | (x >> i & 1);
  return reversed;
}

template <auto function>
void decode_scan(Modifiers& modifiers, Instruction& instruction) {
  apply<1, Words>(instruction, take_size(modifiers, {"b32", "b64"}),
                  [](auto x) { return function(x, kBits<decltype(x)>); });
}

// Byte i of the result is byte s & 7 of b:a, or copies of its sign, for selector s in bits
// 4i..4i+3.
uint32_t permute(uint32_t a, uint32_t b, uint32_t selectors) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = selectors >> (4 * i);
    const uint8_t byte = uint8_t(bytes >> 8 * (selector & 7));
    result |= uint32_t(selector & 8 ? uint8_t(int8_t(byte) >> 7) : byte) << (8 * i);
  }
  return result;
}

void decode_prmt(Modifiers& modifiers, Instruction& instruction) {
  modifiers.take_one({"b32"});
  // Selectors for each value of the low bits of c.
  static const std::map<std::string, std::array<uint16_t, 4>> modes = {
      {"f4e", {0x3210, 0x4321, 0x5432, 0x6543}}, {"b4e", {0x5670, 0x6701, 0x7012, 0x0123}},
      {"rc8", {0x0000, 0x1111, 0x2222, 0x3333}}, {"ecl", {0x3210, 0x3211, 0x3222, 0x3333}},
      {"ecr", {0x0000, 0x1110, 0x2210, 0x3210}}, {"rc16", {0x1010, 0x3232, 0x1010, 0x3232}}};
  for (const auto& [name, selectors] : modes) {
    if (!modifiers.take(name)) continue;
    return each<uint32_t, uint32_t, uint32_t>(
        instruction, [selectors = selectors](uint32_t a, uint32_t b, uint32_t c) {
          return permute(a, b, selectors[c & 3]);
        });
  }
  each<uint32_t, uint32_t, uint32_t>(instruction, permute);
}

void decode_sad(Modifiers& modifiers, Instruction& instruction) {
  apply<3, Integers>(instruction, modifiers.take_type(), [](auto a, auto b, auto c) {
    return decltype(a)(wrapping(c) + wrapping(std::max(a, b)) - wrapping(std::min(a, b)));
  });
}

// Part i of x, of parts of so many bits.
uint32_t part(uint32_t x, int i, int bits, bool is_signed) {
  const uint32_t topmost = x << (32 - bits * (i + 1));
  return is_signed ? uint32_t(int32_t(topmost) >> (32 - bits)) : topmost >> (32 - bits);
}

// dp4a or dp2a: c plus products of the parts of a and as many bytes of b.
template <int kParts>
void decode_dot(Modifiers& modifiers, Instruction& instruction) {
  const int first = kParts == 2 && modifiers.take_one({"lo", "hi"}) == "hi" ? 2 : 0;
  const auto take_sign = [&] {
    const std::string type = modifiers.take_type();
    if (type != "u32" && type != "s32") fail("multiplies .u32 or .s32");
    return type == "s32";
  };
  const bool a_is_signed = take_sign(), b_is_signed = take_sign();
  each<uint32_t, uint32_t, uint32_t>(instruction, [=](uint32_t a, uint32_t b, uint32_t c) {
    for (int i = 0; i < kParts; ++i) {
      c += part(a, i, 32 / kParts, a_is_signed) * part(b, first + i, 8, b_is_signed);
    }
    return c;
  });
}

}  // namespace

void add_bit_decoders(Decoders& decoders) {
  decoders["mov"] = decode_mov;
  decoders["and"] = decode_logic<2, std::bit_and<>>;
  decoders["or"] = decode_logic<2, std::bit_or<>>;
  decoders["xor"] = decode_logic<2, std::bit_xor<>>;
  decoders["not"] = decode_logic<1, Not>;
  decoders["cnot"] = decode_cnot;
  decoders["lop3"] = decode_lop3;
  decoders["shl"] = decode_shl;
  decoders["shr"] = decode_shr;
  decoders["shf"] = decode_shf;
  decoders["bfe"] = decode_bfe;
  decoders["bfi"] = decode_bfi;
  decoders["szext"] = decode_szext;
  decoders["bmsk"] = decode_bmsk;
  decoders["bfind"] = decode_bfind;
  decoders["popc"] = decode_scan<count_ones>;
  decoders["clz"] = decode_scan<count_leading_zeros>;
  decoders["brev"] = decode_scan<reverse>;
  decoders["prmt"] = decode_prmt;
  decoders["sad"] = decode_sad;
  decoders["dp4a"] = decode_dot<4>;
  decoders["dp2a"] = decode_dot<2>;
}

}  // namespace emulator
