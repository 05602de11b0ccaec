// What mma and wgmma share: the types that tensor cores multiply, where the elements of a matrix
// lie in a warp's registers, and the sums of products. Multiplicands are unpacked into plain
// matrices first, int16_t for integers and double for the rest, B transposed so that both are read
// along k.
//
// Integers are exact. Of floating point the hardware's order and intermediate precision are not
// specified: here products are exact, their sum is in double, and one rounding makes it the
// accumulator's type. That is well within what a test may tell apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "machine.h"
#include "program.h"

namespace emulator {

// Small floating point types: a sign, an exponent, a mantissa.
inline double small_float(uint64_t bits, int exponent_bits, int mantissa_bits) {
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  // Without the leading one, numbers are subnormal and have the exponent of the least normal ones.
  const double magnitude = std::ldexp(exponent ? mantissa | 1 << mantissa_bits : mantissa,
                                      std::max(exponent, 1) - bias - mantissa_bits);
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -magnitude : magnitude;
}

// With IEEE 754's infinities and NaNs.
template <int exponent_bits, int mantissa_bits>
double ieee_value(uint64_t bits) {
  constexpr int kSpecial = (1 << exponent_bits) - 1;
  if ((bits >> mantissa_bits & kSpecial) != kSpecial)
    return small_float(bits, exponent_bits, mantissa_bits);
  if (bits & ((1 << mantissa_bits) - 1)) return NAN;
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -INFINITY : INFINITY;
}

inline double f16_value(uint64_t bits) { return ieee_value<5, 10>(bits); }
inline double bf16_value(uint64_t bits) { return as<float>(bits << 16); }
inline double tf32_value(uint64_t bits) { return as<float>(bits & ~0x1fffull); }  // 10 of 23 bits
inline double e5m2_value(uint64_t bits) { return ieee_value<5, 2>(bits); }
inline double e4m3_value(uint64_t bits) {  // one NaN of each sign, no infinity
  return (bits & 0x7f) == 0x7f ? NAN : small_float(bits, 4, 3);
}

// The nearest f16, to even if there are two.
inline uint64_t f16_bits(double value) {
  if (std::isnan(value)) return 0x7fff;
  const uint64_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::fabs(value) >= 65536) return sign | 0x7c00;
  const int exponent = std::max(std::ilogb(value), -14);  // zero's is far below
  // A mantissa that is rounded up to 2048 carries into the exponent, as it must; a subnormal's is
  // less than 1024, and takes the exponent down to 0.
  const uint64_t mantissa = std::nearbyint(std::ldexp(std::fabs(value), 10 - exponent));
  return sign | ((uint64_t(exponent + 14) << 10) + mantissa);
}

enum class Family { kInteger4, kInteger8, kFloat8, kF16, kBf16, kTf32, kF64 };

struct ElementType {
  const char* name;
  Family family;  // A and B may be of different types in one family
  int bits;
  bool is_signed;                  // of integers
  double (*value)(uint64_t bits);  // of the others

  int packed() const { return std::max(1, 32 / bits); }  // in a register
};

constexpr ElementType kElementTypes[] = {
    {"u4", Family::kInteger4, 4, false, nullptr},   {"s4", Family::kInteger4, 4, true, nullptr},
    {"u8", Family::kInteger8, 8, false, nullptr},   {"s8", Family::kInteger8, 8, true, nullptr},
    {"e4m3", Family::kFloat8, 8, true, e4m3_value}, {"e5m2", Family::kFloat8, 8, true, e5m2_value},
    {"f16", Family::kF16, 16, true, f16_value},     {"bf16", Family::kBf16, 16, true, bf16_value},
    {"tf32", Family::kTf32, 32, true, tf32_value},  {"f64", Family::kF64, 64, true, as<double>},
};

enum class Accumulator { kS32, kF16, kF32, kF64 };

// Which accumulators a family has.
struct AccumulatorRule {
  Family family;
  const char* name;
  Accumulator accumulator;
};
constexpr AccumulatorRule kAccumulatorRules[] = {
    {Family::kInteger4, "s32", Accumulator::kS32}, {Family::kInteger8, "s32", Accumulator::kS32},
    {Family::kFloat8, "f16", Accumulator::kF16},   {Family::kFloat8, "f32", Accumulator::kF32},
    {Family::kF16, "f16", Accumulator::kF16},      {Family::kF16, "f32", Accumulator::kF32},
    {Family::kBf16, "f32", Accumulator::kF32},     {Family::kTf32, "f32", Accumulator::kF32},
    {Family::kF64, "f64", Accumulator::kF64},
};

// D = A * B + C: the part that does not depend on the instruction.
struct Product {
  const ElementType* a = nullptr;
  const ElementType* b = nullptr;
  Accumulator accumulator{};
  int k = 0;
  bool saturates = false;
  bool is_sparse = false;   // A lacks two columns of each four
  bool is_ordered = false;  // and its metadata has the indices in order

  bool is_integer() const { return !a->value; }
  int a_columns() const { return is_sparse ? k / 2 : k; }
  int packed_sums() const { return accumulator == Accumulator::kF16 ? 2 : 1; }  // in a register
};

// The product of types that go together.
inline std::optional<Product> product_of(const std::string& d, const std::string& a,
                                         const std::string& b) {
  Product product;
  for (const ElementType& type : kElementTypes) {
    if (a == type.name) product.a = &type;
    if (b == type.name) product.b = &type;
  }
  if (!product.a || !product.b || product.a->family != product.b->family) return {};
  for (const AccumulatorRule& rule : kAccumulatorRules)
    if (rule.family == product.a->family && d == rule.name) {
      product.accumulator = rule.accumulator;
      return product;
    }
  return {};
}

struct Place {
  int row, column;
};

// "Matrix Fragments for mma.m16n8k32" and its siblings are one map: four lanes share a row, each
// with one register of consecutive elements; the next register is eight rows below where the
// fragment has two `bands` of rows, and then right of what the four lanes hold. B, transposed, has
// one band.
inline Place multiplicand_place(int lane, int reg, int element, int packed, int bands) {
  return {lane / 4 + 8 * (reg % bands), 4 * packed * (reg / bands) + lane % 4 * packed + element};
}

// C and D: element `i` of a lane, counted over its registers.
inline Place sum_place(int lane, int i) {
  return {lane / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + lane % 4 * 2 + i % 2};
}

template <typename T>
struct Matrix {
  Matrix(int rows, int width) : columns(width), values(size_t(rows) * width) {}
  T* operator[](int row) { return &values[size_t(row) * columns]; }

  int columns;
  std::vector<T> values;
};

template <typename T>
T element_value(const ElementType& type, uint64_t bits) {
  if constexpr (std::is_same_v<T, double>) {
    return type.value(type.bits < 64 ? bits & ((1ull << type.bits) - 1) : bits);
  } else {
    const int unused = 32 - type.bits;
    return type.is_signed ? int32_t(uint32_t(bits) << unused) >> unused
                          : uint32_t(bits) << unused >> unused;
  }
}

// Puts one register of all lanes where it belongs, in the rows from `first_row`.
template <typename T>
void unpack(const uint64_t* lanes, int reg, const ElementType& type, int bands, int first_row,
            Matrix<T>& matrix) {
  const int packed = type.packed();
  for (int lane = 0; lane < kLanes; ++lane)
    for (int element = 0; element < packed; ++element) {
      const Place place = multiplicand_place(lane, reg, element, packed, bands);
      matrix[first_row + place.row][place.column] =
          element_value<T>(type, lanes[lane] >> (element * type.bits));
    }
}

// Where the metadata has the two indices of four columns of a sparse row: in the lane's register
// from a bit on. ("Matrix fragments for multiply-accumulate operation with sparse matrix A"; the
// figures for k = 16, 32 and 64, which for all types with two of four columns are the same.)
struct IndexPlace {
  int lane, bit;
};
inline IndexPlace index_place(int row, int chunk, int k, int selector) {
  const int first = row % 8 * 4, band = row / 8;
  if (k == 64) return {first + chunk / 8 * 2 + band, chunk % 8 * 4};
  return {first + selector * (k / 16) + chunk / 4, band * 16 + chunk % 4 * 4};
}

// The column of each packed element of a warp's 16 rows, row by row.
inline std::vector<uint8_t> sparse_columns(Warp& warp, const uint64_t* metadata, int selector,
                                           const Product& product) {
  if (selector < 0 || selector >= 64 / product.k)
    warp.fail("the sparsity selector must be less than " + std::to_string(64 / product.k));
  std::vector<uint8_t> columns;
  for (int row = 0; row < 16; ++row)
    for (int chunk = 0; chunk < product.k / 4; ++chunk) {
      const IndexPlace place = index_place(row, chunk, product.k, selector);
      const int pair = metadata[place.lane] >> place.bit & 15, first = pair & 3, second = pair >> 2;
      if (first == second || (product.is_ordered && first > second))
        warp.fail("invalid sparse metadata at bit " + std::to_string(place.bit), place.lane);
      columns.push_back(4 * chunk + first);
      columns.push_back(4 * chunk + second);
    }
  return columns;
}

template <typename T>
Matrix<T> spread(const Matrix<T>& packed, const std::vector<uint8_t>& columns) {
  const int rows = int(packed.values.size()) / packed.columns;
  Matrix<T> dense(rows, 2 * packed.columns);
  for (size_t i = 0; i < packed.values.size(); ++i)
    dense[int(i) / packed.columns][columns[i]] = packed.values[i];
  return dense;
}

// Sums of products of integers cannot overflow: k is 64 at most.
template <typename T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, int32_t>;

// With k known the compiler has one instruction for eight of these products.
template <int k>
int32_t dot_of(const int16_t* a, const int16_t* b) {
  int32_t sum = 0;
  for (int i = 0; i < k; ++i) sum += int32_t(a[i]) * b[i];
  return sum;
}

inline int32_t dot(const int16_t* a, const int16_t* b, int k) {
  return k == 16 ? dot_of<16>(a, b) : k == 32 ? dot_of<32>(a, b) : dot_of<64>(a, b);
}

inline double dot(const double* a, const double* b, int k) {
  double sums[4] = {};  // so that none waits for the one before it; 4 is the least k
  for (int i = 0; i < k; i += 4)
    for (int j = 0; j < 4; ++j) sums[j] += a[i + j] * b[i + j];
  return sums[0] + sums[1] + (sums[2] + sums[3]);
}

inline uint64_t add(const Product& product, uint64_t c, int32_t products) {
  const int64_t sum = int64_t(int32_t(c)) + products;
  return uint32_t(product.saturates ? std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX) : sum);
}

inline uint64_t add(const Product& product, uint64_t c, double products) {
  if (product.accumulator == Accumulator::kF16) return f16_bits(f16_value(c) + products);
  if (product.accumulator == Accumulator::kF32) return bits_of(float(as<float>(c) + products));
  return bits_of(as<double>(c) + products);
}

// What a lane's register `reg` of D becomes, whose rows begin at `first_row` of A, when that of C
// is `c`.
template <typename T>
uint64_t accumulate(const Product& product, Matrix<T>& a, Matrix<T>& b, int first_row, int lane,
                    int reg, uint64_t c) {
  const int packed = product.packed_sums();
  uint64_t d = 0;
  for (int i = 0; i < packed; ++i) {
    const Place place = sum_place(lane, reg * packed + i);
    const Sum<T> products = dot(a[first_row + place.row], b[place.column], product.k);
    d |= add(product, c >> (16 * i), products) << (16 * i);
  }
  return d;
}

inline void expect_modifiers(Modifiers& modifiers, const std::vector<std::string>& names) {
  for (const std::string& name : names)
    if (!modifiers.take(name)) fail("lacks ." + name);
}

// The registers of an operand {..}, of which there must be `count`; -1 for a sink.
inline std::vector<int> registers_of(const Instruction& instruction, int operand, size_t count,
                                     bool may_be_sinks = false) {
  const Operand& vector = instruction.operands[operand];
  bool fits = vector.kind == Operand::Kind::kVector && vector.parts.size() == count;
  std::vector<int> slots;
  for (const Operand& part : vector.parts) {
    fits &= part.kind == Operand::Kind::kValue || may_be_sinks;
    slots.push_back(part.kind == Operand::Kind::kValue ? part.slot : -1);
  }
  if (!fits)
    fail("operand " + std::to_string(operand) + " must be " + std::to_string(count) +
         " registers in braces");
  return slots;
}

}  // namespace emulator
