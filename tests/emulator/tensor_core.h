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
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "formats.h"
#include "machine.h"
#include "program.h"

namespace emulator {

enum class Family { kInteger, kFloat8, kF16, kBf16, kTf32 };

struct ElementType {
  const char* name;
  Family family;  // A and B may be of different types in one family
  int bits;
  bool is_signed;                  // of integers
  double (*value)(uint64_t bits);  // of the others
};

template <typename S, int kShift = 0>
double value_of(uint64_t bits) {
  return decode(S{typename S::Storage(bits >> kShift)});
}

constexpr ElementType kElementTypes[] = {
    {"u8", Family::kInteger, 8, false, nullptr},
    {"s8", Family::kInteger, 8, true, nullptr},
    {"e4m3", Family::kFloat8, 8, true, value_of<E4M3>},
    {"e5m2", Family::kFloat8, 8, true, value_of<E5M2>},
    {"f16", Family::kF16, 16, true, value_of<F16>},
    {"bf16", Family::kBf16, 16, true, value_of<BF16>},
    {"tf32", Family::kTf32, 32, true, value_of<TF32, kTf32Shift>},
};

// D = A * B + C: the part that does not depend on the instruction.
struct Product {
  const ElementType* a = nullptr;
  const ElementType* b = nullptr;
  bool sums_are_f16 = false;  // and not f32; of integers they are s32
  bool saturates = false;
  bool is_sparse = false;   // A lacks two columns of each four
  bool is_ordered = false;  // and its metadata has the indices in order
  int k = 0;

  bool is_integer() const { return a->family == Family::kInteger; }
  int a_columns() const { return is_sparse ? k / 2 : k; }
  int row_bytes() const { return a_columns() * a->bits / 8; }  // of A
  int packed_sums() const { return sums_are_f16 ? 2 : 1; }     // in a register
};

// The product of the types that come next: of D, A and B.
inline Product take_product(Modifiers& modifiers, int k) {
  const std::string d = modifiers.take_next(), a = modifiers.take_next(), b = modifiers.take_next();
  Product product;
  for (const ElementType& type : kElementTypes) {
    if (a == type.name) product.a = &type;
    if (b == type.name) product.b = &type;
  }
  bool fits = product.a && product.b && product.a->family == product.b->family;
  if (fits) {
    const Family family = product.a->family;
    product.sums_are_f16 = d == "f16" && (family == Family::kF16 || family == Family::kFloat8);
    fits = product.is_integer() ? d == "s32" : d == "f32" || product.sums_are_f16;
  }
  if (!fits) fail("the emulator has no products of these types");
  product.k = k;
  return product;
}

template <typename T>
struct Matrix {
  Matrix(int rows, int width) : columns(width), values(size_t(rows) * width) {}
  T* operator[](int row) { return &values[size_t(row) * columns]; }

  static T element(const ElementType& type, uint64_t bits) {
    if constexpr (std::is_same_v<T, double>) return type.value(bits);
    return type.is_signed ? int8_t(bits) : uint8_t(bits);
  }

  int columns;
  std::vector<T> values;
};

// "Matrix Fragments for mma.m16n8k32" and its siblings are one map: four lanes share a row, each
// with one register of consecutive elements; the next register is eight rows below where the
// fragment has two `bands` of rows, and then right of what the four lanes hold. A has two bands, B,
// transposed, has one. Puts a register of all lanes where it belongs, in the rows from `first_row`.
template <typename T>
void unpack(const uint64_t* lanes, int reg, const ElementType& type, int bands, int first_row,
            Matrix<T>& matrix) {
  const int packed = 32 / type.bits;
  for (int lane = 0; lane < kLanes; ++lane) {
    T* to =
        &matrix[first_row + lane / 4 + 8 * (reg % bands)][packed * (4 * (reg / bands) + lane % 4)];
    for (int i = 0; i < packed; ++i) to[i] = matrix.element(type, lanes[lane] >> (i * type.bits));
  }
}

// The column of each packed element of a warp's 16 rows, row by row. The metadata has two indices
// for four columns: in the lane's register from a bit on. ("Matrix fragments for
// multiply-accumulate operation with sparse matrix A"; the figures for k = 32 of 16-bit types and
// k = 64 of 8-bit types.)
inline std::vector<uint8_t> sparse_columns(Warp& warp, const Operand& metadata,
                                           const Operand& selected, const Product& product) {
  const int selector = int(warp.lanes(selected)[0]), k = product.k;
  if (selector < 0 || selector >= 64 / k)
    warp.fail("the sparsity selector must be less than " + std::to_string(64 / k));
  std::vector<uint8_t> columns;
  for (int row = 0; row < 16; ++row)
    for (int chunk = 0; chunk < k / 4; ++chunk) {
      const int band = row / 8;
      const int lane = row % 8 * 4 + (k == 64 ? chunk / 8 * 2 + band : selector * 2 + chunk / 4);
      const int bit = k == 64 ? chunk % 8 * 4 : band * 16 + chunk % 4 * 4;
      const int pair = warp.lanes(metadata)[lane] >> bit & 15, first = pair & 3, second = pair >> 2;
      if (first == second || (product.is_ordered && first > second))
        warp.fail("invalid sparse metadata at bit " + std::to_string(bit), lane);
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

// With k known the compiler has one instruction for eight of these products. Their sum cannot
// overflow: k is 64 at most.
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
  if (product.sums_are_f16) return encode<F16>(value_of<F16>(c) + products).bits;
  return bits_of(float(as<float>(c) + products));
}

// What a lane's register `reg` of D becomes, whose rows begin at `first_row` of A, when that of C
// is `c`. Of C and D, too, four lanes share a row, each with two elements in a row; the next two
// are eight rows below, and then eight columns to the right.
template <typename T>
uint64_t accumulate(const Product& product, Matrix<T>& a, Matrix<T>& b, int first_row, int lane,
                    int reg, uint64_t c) {
  uint64_t d = 0;
  for (int part = 0; part < product.packed_sums(); ++part) {
    const int i = reg * product.packed_sums() + part;
    const int row = first_row + lane / 4 + 8 * (i / 2 % 2);
    const int column = 8 * (i / 4) + lane % 4 * 2 + i % 2;
    d |= add(product, c >> (16 * part), dot(a[row], b[column], product.k)) << (16 * part);
  }
  return d;
}

inline void expect_modifiers(Modifiers& modifiers, const std::vector<std::string>& names) {
  for (const std::string& name : names)
    if (!modifiers.take(name)) fail("lacks ." + name);
}

// The registers of an operand {..}, of which there must be `count`.
inline std::vector<int> registers_of(const Instruction& instruction, int operand, size_t count) {
  const Operand& vector = instruction.operands[operand];
  bool fits = vector.kind == Operand::Kind::kVector && vector.parts.size() == count;
  std::vector<int> slots;
  for (const Operand& part : vector.parts) {
    fits &= part.kind == Operand::Kind::kValue;
    slots.push_back(part.slot);
  }
  if (!fits)
    fail("operand " + std::to_string(operand) + " must be " + std::to_string(count) +
         " registers in braces");
  return slots;
}

}  // namespace emulator
