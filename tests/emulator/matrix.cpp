// Matrices of a warp: ldmatrix and stmatrix move 8 x 8 elements of 16 bits, mma multiplies, with
// the maps of fragments and the arithmetic of tensor_core.h. Left out: movmatrix, and mma of 4-bit
// integers, of f64 and of 8 rows.
#include <array>
#include <cstdio>

#include "memory.h"
#include "tensor_core.h"

namespace emulator {
namespace {

constexpr int kRowBytes = 16, kHalves = 8;  // of a row of an 8 x 8 matrix

using Rows = std::array<std::array<uint16_t, kHalves>, kLanes>;  // of four matrices

// ldmatrix, where kLoads, or stmatrix. ("Warp-level matrix load instruction: ldmatrix")
template <bool kLoads>
void decode_move(Modifiers& modifiers, Instruction& instruction) {
  expect_modifiers(modifiers, {"sync", "aligned", "m8n8", "b16"});
  const int matrices = modifiers.take_one({"x1", "x2", "x4"})[1] - '0';
  const bool is_transposed = modifiers.take("trans");
  const bool is_shared = modifiers.take("shared") || modifiers.take("shared::cta");
  expect_operands(instruction, 2, 2);
  const std::vector<int> registers = registers_of(instruction, kLoads ? 0 : 1, matrices);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    // Lane i gives the address of row i, eight to a matrix. Of a shared address 32 bits count: its
    // register may have no more.
    const Operand& address = at.operands[kLoads ? 1 : 0];
    std::array<uint64_t, kLanes> of_row{};
    for (int i = 0; i < 8 * matrices; ++i) {
      of_row[i] = address_of(warp, address, i);
      if (is_shared) of_row[i] = uint32_t(of_row[i]);
    }
    count_shared(warp, of_row.data(), uint32_t((1ull << 8 * matrices) - 1), kRowBytes);
    Rows rows;
    const auto move_rows = [&](auto move) {
      const Space space = is_shared ? Space::kShared : Space::kGeneric;
      for (int i = 0; i < 8 * matrices; ++i)
        move(warp, space, i, of_row[i], rows[i].data(), kRowBytes, kRowBytes);
    };
    if (kLoads) move_rows(load);
    for (int i = 0; i < 32 * matrices; ++i) {
      const int lane = i % kLanes, first = i / kLanes * 8;
      const int row = lane / 4, column = lane % 4 * 2;
      auto& low = is_transposed ? rows[first + column][row] : rows[first + row][column];
      auto& high = is_transposed ? rows[first + column + 1][row] : rows[first + row][column + 1];
      uint64_t& word = warp.lanes(registers[i / kLanes])[lane];
      if (kLoads) {
        word = low | uint64_t(high) << 16;
      } else {
        low = uint16_t(word);
        high = uint16_t(word >> 16);
      }
    }
    if (!kLoads) move_rows(store);
  };
}

struct Mma {
  Product product;
  std::vector<int> d, a, b, c;  // registers
};

template <typename T>
void run_mma(Warp& warp, const Instruction& at, const Mma& mma) {
  const Product& product = mma.product;
  Matrix<T> a(16, product.a_columns()), b(8, product.k);
  for (size_t i = 0; i < mma.a.size(); ++i)
    unpack(warp.lanes(mma.a[i]), int(i), *product.a, 2, 0, a);
  for (size_t i = 0; i < mma.b.size(); ++i)
    unpack(warp.lanes(mma.b[i]), int(i), *product.b, 1, 0, b);
  if (product.is_sparse)
    a = spread(a, sparse_columns(warp, at.operands[4], at.operands[5], product));
  // The registers of D may be those of C in another order, so that all are read first.
  std::array<std::array<uint64_t, kLanes>, 4> sums;
  for (size_t i = 0; i < mma.c.size(); ++i) {
    const uint64_t* c = warp.lanes(mma.c[i]);
    for (int lane = 0; lane < kLanes; ++lane)
      sums[i][lane] = accumulate(product, a, b, 0, lane, int(i), c[lane]);
  }
  for (size_t i = 0; i < mma.d.size(); ++i)
    std::copy(sums[i].begin(), sums[i].end(), warp.lanes(mma.d[i]));
}

// "mma", "mma.sp": of all types a row of A has 16 or 32 bytes. Where A is sparse, only 32: of the
// metadata of the others the manual has but a figure, which nothing confirms.
void decode_mma(Modifiers& modifiers, Instruction& instruction) {
  const bool is_ordered = modifiers.take("sp::ordered_metadata");
  const bool is_sparse = modifiers.take("sp") || is_ordered;
  expect_modifiers(modifiers, {"sync", "aligned", "row", "col"});
  const bool saturates = modifiers.take("satfinite");
  int k = 0;
  char rest;
  const bool has_16_rows = std::sscanf(modifiers.take_next().c_str(), "m16n8k%d%c", &k, &rest) == 1;
  Mma mma;
  Product& product = mma.product = take_product(modifiers, k);
  product.saturates = saturates;
  product.is_sparse = is_sparse;
  product.is_ordered = is_ordered;
  const bool fits = product.row_bytes() == 32 || (product.row_bytes() == 16 && !is_sparse);
  const Family family = product.a->family;
  if (!has_16_rows || !fits || (is_sparse && family == Family::kTf32) ||
      (is_sparse && family == Family::kFloat8 && product.sums_are_f16) ||
      (saturates && !product.is_integer()))
    fail("the emulator has no mma of this shape and these types");
  expect_modifiers(modifiers, {product.is_integer()   ? "s32"
                               : product.sums_are_f16 ? "f16"
                                                      : "f32"});

  const size_t operands = is_sparse ? 6 : 4;  // with the metadata and the selector
  expect_operands(instruction, operands, operands);
  const int sums = 4 / product.packed_sums();
  mma.d = registers_of(instruction, 0, sums);
  mma.a = registers_of(instruction, 1, product.row_bytes() / 8);
  mma.b = registers_of(instruction, 2, k * product.b->bits / 128);
  mma.c = registers_of(instruction, 3, sums);
  instruction.run = [mma](Warp& warp, const Instruction& at) {
    mma.product.is_integer() ? run_mma<int16_t>(warp, at, mma) : run_mma<double>(warp, at, mma);
  };
}

}  // namespace

void add_matrix_decoders(Decoders& decoders) {
  decoders["ldmatrix"] = decode_move<true>;
  decoders["stmatrix"] = decode_move<false>;
  decoders["mma"] = decode_mma;
}

}  // namespace emulator
