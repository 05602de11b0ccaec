// Registers as bits: moved, combined, shifted, counted. (PTX ISA, "Logic and Shift Instructions",
// "Data Movement and Conversion Instructions: mov, prmt", and of "Integer Arithmetic Instructions"
// those that look at single bits or bytes.) Left out, as neither nvcc nor Triton emits them: fns,
// cnot, szext, bmsk, dp2a, the modes of prmt, and lop3 that makes a predicate.
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
    for (size_t i = 0; i < parts.size(); ++i)
      value |= low_bits(warp.lanes(parts[i])[lane], bits) << (i * bits);
    to[lane] = value;
  });
}

void decode_mov(Modifiers& modifiers, Instruction& instruction) {
  const std::string type = take_bits(modifiers);
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

template <typename Operation>
void decode_logic(Modifiers& modifiers, Instruction& instruction) {
  apply<2, PredicateOrWords>(instruction, take_bits(modifiers),
                             [](auto x, auto y) { return decltype(x)(Operation()(x, y)); });
}

void decode_not(Modifiers& modifiers, Instruction& instruction) {
  apply<1, PredicateOrWords>(instruction, take_bits(modifiers),
                             [](auto x) { return decltype(x)(x ^ decltype(x)(~0ull)); });
}

void decode_lop3(Modifiers& modifiers, Instruction& instruction) {
  modifiers.take_one({"b32"});
  each<uint32_t, uint32_t, uint32_t, uint32_t>(
      instruction, [](uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
        uint32_t result = 0;
        for (int i = 0; i < 8; ++i)
          if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
        return result;
      });
}

void decode_shl(Modifiers& modifiers, Instruction& instruction) {
  with_type(Words(), take_bits(modifiers), [&](auto zero) {
    using T = decltype(zero);
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
  with_type(Integers(), type, [&](auto zero) {
    using T = decltype(zero);
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

// The topmost bit of the field is its sign, even where the field is cut off at the register's end.
void decode_bfe(Modifiers& modifiers, Instruction& instruction) {
  with_type(LargeIntegers(), modifiers.take_type(), [&](auto zero) {
    using T = decltype(zero);
    each<T, uint32_t, uint32_t>(instruction, [](T x, uint32_t position, uint32_t length) {
      length &= 255;
      if (length == 0) return T(0);
      const uint32_t unused = kBits<T> - std::min(length, kBits<T>);
      return T(T(wrapping(shift_right(x, position & 255)) << unused) >> unused);
    });
  });
}

void decode_bfi(Modifiers& modifiers, Instruction& instruction) {
  with_type(Words(), take_bits(modifiers), [&](auto zero) {
    using T = decltype(zero);
    each<T, T, uint32_t, uint32_t>(instruction, [](T a, T b, uint32_t position, uint32_t length) {
      position &= 255;
      if (position >= kBits<T>) return b;
      const T mask = T(low_bits(~uint64_t(0), length & 255) << position);
      return T((b & ~mask) | (wrapping(a) << position & mask));
    });
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
  apply<1, Words>(instruction, take_bits(modifiers),
                  [](auto x) { return function(x, kBits<decltype(x)>); });
}

// Byte i of the result is byte s & 7 of b:a, or copies of its sign, for selector s in bits
// 4i..4i+3.
void decode_prmt(Modifiers& modifiers, Instruction& instruction) {
  modifiers.take_one({"b32"});
  each<uint32_t, uint32_t, uint32_t>(instruction, [](uint32_t a, uint32_t b, uint32_t selectors) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
      const uint32_t selector = selectors >> (4 * i);
      const uint8_t byte = uint8_t(bytes >> 8 * (selector & 7));
      result |= uint32_t(selector & 8 ? uint8_t(int8_t(byte) >> 7) : byte) << (8 * i);
    }
    return result;
  });
}

// c plus products of the bytes of a and b.
void decode_dp4a(Modifiers& modifiers, Instruction& instruction) {
  const bool a_is_signed = modifiers.take_type() == "s32";
  const bool b_is_signed = modifiers.take_type() == "s32";
  each<uint32_t, uint32_t, uint32_t>(instruction, [=](uint32_t a, uint32_t b, uint32_t c) {
    for (int i = 0; i < 32; i += 8)
      c += uint32_t(a_is_signed ? int8_t(a >> i) : uint8_t(a >> i)) *
           uint32_t(b_is_signed ? int8_t(b >> i) : uint8_t(b >> i));
    return c;
  });
}

}  // namespace

void add_bit_decoders(Decoders& decoders) {
  decoders["mov"] = decode_mov;
  decoders["and"] = decode_logic<std::bit_and<>>;
  decoders["or"] = decode_logic<std::bit_or<>>;
  decoders["xor"] = decode_logic<std::bit_xor<>>;
  decoders["not"] = decode_not;
  decoders["lop3"] = decode_lop3;
  decoders["shl"] = decode_shl;
  decoders["shr"] = decode_shr;
  decoders["shf"] = decode_shf;
  decoders["bfe"] = decode_bfe;
  decoders["bfi"] = decode_bfi;
  decoders["bfind"] = decode_bfind;
  decoders["popc"] = decode_scan<count_ones>;
  decoders["clz"] = decode_scan<count_leading_zeros>;
  decoders["brev"] = decode_scan<reverse>;
  decoders["prmt"] = decode_prmt;
  decoders["dp4a"] = decode_dp4a;
}

}  // namespace emulator
