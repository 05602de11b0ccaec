// Matrices of a warp: ldmatrix, stmatrix and movmatrix move 8 x 8 elements of 16 bits, mma
// multiplies. An mma is described by a table of shapes and by tensor_core.h, which has the maps of
// fragments and the arithmetic.
#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "machine.h"
#include "memory.h"
#include "program.h"
#include "tensor_core.h"

namespace emulator {
namespace {

constexpr int kRowBytes = 16, kHalves = 8;  // of a row of an 8 x 8 matrix

using Rows = std::array<std::array<uint16_t, kHalves>, kLanes>;  // of four matrices

// The low or high half of a lane's register. ("Warp-level matrix load instruction: ldmatrix")
Place half_place(int lane, int half, bool transposed) {
  const Place place{lane / 4, lane % 4 * 2 + half};
  return transposed ? Place{place.column, place.row} : place;
}

void rows_to_registers(const Rows& rows, int matrix, bool transposed, uint64_t* lanes) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const Place low = half_place(lane, 0, transposed), high = half_place(lane, 1, transposed);
    lanes[lane] = rows[8 * matrix + low.row][low.column] |
                  uint64_t(rows[8 * matrix + high.row][high.column]) << 16;
  }
}

void registers_to_rows(const uint64_t* lanes, int matrix, bool transposed, Rows& rows) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int half = 0; half < 2; ++half) {
      const Place place = half_place(lane, half, transposed);
      rows[8 * matrix + place.row][place.column] = uint16_t(lanes[lane] >> (16 * half));
    }
}

// The addresses of an ldmatrix or stmatrix: lane i gives that of row i, eight to a matrix.
struct RowAddresses {
  Space space = Space::kGeneric;
  int count = 0;
  std::array<uint64_t, kLanes> of_row{};

  RowAddresses(Warp& warp, const Operand& address, bool is_shared, int matrices)
      : space(is_shared ? Space::kShared : Space::kGeneric), count(8 * matrices) {
    for (int lane = 0; lane < count; ++lane) {
      const uint64_t base = address.slot < 0 ? 0 : warp.lanes(address)[lane];
      // Of a shared address 32 bits count: its register may have no more.
      of_row[lane] = is_shared ? uint32_t(base + address.offset) : base + address.offset;
    }
    count_shared(warp, of_row.data(), uint32_t((1ull << count) - 1), kRowBytes);
  }
};

struct MatrixMove {
  int matrices;
  bool transposed, is_shared;
};

MatrixMove take_matrix_move(Modifiers& modifiers) {
  expect_modifiers(modifiers, {"sync", "aligned", "m8n8", "b16"});
  const std::string count = modifiers.take_one({"x1", "x2", "x4"});
  const bool is_shared = modifiers.take("shared") || modifiers.take("shared::cta");
  return {count[1] - '0', modifiers.take("trans"), is_shared};
}

void decode_ldmatrix(Modifiers& modifiers, Instruction& instruction) {
  const MatrixMove move = take_matrix_move(modifiers);
  expect_operands(instruction, 2, 2);
  const std::vector<int> to = registers_of(instruction, 0, move.matrices, /*may_be_sinks=*/true);
  instruction.run = [move, to](Warp& warp, const Instruction& at) {
    warp.expect_converged();
    const RowAddresses addresses(warp, at.operands[1], move.is_shared, move.matrices);
    Rows rows;
    for (int i = 0; i < addresses.count; ++i)
      load(warp, addresses.space, i, addresses.of_row[i], rows[i].data(), kRowBytes, kRowBytes);
    for (int i = 0; i < move.matrices; ++i)
      if (to[i] >= 0) rows_to_registers(rows, i, move.transposed, warp.lanes(to[i]));
  };
}

void decode_stmatrix(Modifiers& modifiers, Instruction& instruction) {
  const MatrixMove move = take_matrix_move(modifiers);
  expect_operands(instruction, 2, 2);
  const std::vector<int> from = registers_of(instruction, 1, move.matrices);
  instruction.run = [move, from](Warp& warp, const Instruction& at) {
    warp.expect_converged();
    const RowAddresses addresses(warp, at.operands[0], move.is_shared, move.matrices);
    Rows rows;
    for (int i = 0; i < move.matrices; ++i)
      registers_to_rows(warp.lanes(from[i]), i, move.transposed, rows);
    for (int i = 0; i < addresses.count; ++i)
      store(warp, addresses.space, i, addresses.of_row[i], rows[i].data(), kRowBytes, kRowBytes);
  };
}

void decode_movmatrix(Modifiers& modifiers, Instruction& instruction) {
  expect_modifiers(modifiers, {"sync", "aligned", "m8n8", "trans", "b16"});
  expect_operands(instruction, 2, 2);
  instruction.run = [](Warp& warp, const Instruction& at) {
    warp.expect_converged();
    Rows rows;
    registers_to_rows(warp.lanes(at.operands[1]), 0, false, rows);
    rows_to_registers(rows, 0, true, warp.lanes(at.operands[0]));
  };
}

struct MmaShape {
  const char* name;
  Family family;
  int bands, k;  // of rows of A, eight each
  bool is_sparse;
};

constexpr MmaShape kMmaShapes[] = {
    {"m8n8k32", Family::kInteger4, 1, 32, false},  {"m16n8k32", Family::kInteger4, 2, 32, false},
    {"m16n8k64", Family::kInteger4, 2, 64, false}, {"m8n8k16", Family::kInteger8, 1, 16, false},
    {"m16n8k16", Family::kInteger8, 2, 16, false}, {"m16n8k32", Family::kInteger8, 2, 32, false},
    {"m16n8k32", Family::kFloat8, 2, 32, false},   {"m16n8k8", Family::kF16, 2, 8, false},
    {"m16n8k16", Family::kF16, 2, 16, false},      {"m16n8k8", Family::kBf16, 2, 8, false},
    {"m16n8k16", Family::kBf16, 2, 16, false},     {"m16n8k4", Family::kTf32, 2, 4, false},
    {"m16n8k8", Family::kTf32, 2, 8, false},       {"m8n8k4", Family::kF64, 1, 4, false},
    {"m16n8k32", Family::kInteger8, 2, 32, true},  {"m16n8k64", Family::kInteger8, 2, 64, true},
    {"m16n8k64", Family::kFloat8, 2, 64, true},    {"m16n8k16", Family::kF16, 2, 16, true},
    {"m16n8k32", Family::kF16, 2, 32, true},       {"m16n8k16", Family::kBf16, 2, 16, true},
    {"m16n8k32", Family::kBf16, 2, 32, true},
};

struct Mma {
  Product product;
  int bands;
  std::vector<int> d, a, b, c;  // registers
};

constexpr int kMetadataOperand = 4, kSelectorOperand = 5;

template <typename T>
void run_mma(Warp& warp, const Instruction& at, const Mma& mma) {
  warp.expect_converged();
  const Product& product = mma.product;
  Matrix<T> a(8 * mma.bands, product.a_columns()), b(8, product.k);
  for (size_t i = 0; i < mma.a.size(); ++i)
    unpack(warp.lanes(mma.a[i]), int(i), *product.a, mma.bands, 0, a);
  for (size_t i = 0; i < mma.b.size(); ++i)
    unpack(warp.lanes(mma.b[i]), int(i), *product.b, 1, 0, b);
  if (product.is_sparse) {
    const int selector = int(warp.lanes(at.operands[kSelectorOperand])[0]);
    const uint64_t* metadata = warp.lanes(at.operands[kMetadataOperand]);
    a = spread(a, sparse_columns(warp, metadata, selector, product));
  }
  // The registers of D may be those of C in another order, so that all are read first.
  std::array<std::array<uint64_t, kLanes>, 4> sums;
  for (size_t i = 0; i < mma.c.size(); ++i) {
    const uint64_t* c = warp.lanes(mma.c[i]);
    for (int lane = 0; lane < kLanes; ++lane)
      sums[i][lane] = accumulate(product, a, b, 0, lane, int(i), c[lane]);
  }
  for (size_t i = 0; i < mma.d.size(); ++i)
    if (mma.d[i] >= 0) std::copy(sums[i].begin(), sums[i].end(), warp.lanes(mma.d[i]));
}

void decode_mma(Modifiers& modifiers, Instruction& instruction) {
  const bool is_ordered = modifiers.take("sp::ordered_metadata");
  const bool is_sparse = modifiers.take("sp") || is_ordered;
  expect_modifiers(modifiers, {"sync", "aligned", "row", "col"});
  const bool saturates = modifiers.take("satfinite");
  const std::string shape = modifiers.take_next(), d = modifiers.take_next(),
                    a = modifiers.take_next(), b = modifiers.take_next(), c = modifiers.take_next();
  const std::optional<Product> product = product_of(d, a, b);
  const MmaShape* found = nullptr;
  for (const MmaShape& candidate : kMmaShapes)
    if (product && candidate.family == product->a->family && candidate.is_sparse == is_sparse &&
        shape == candidate.name)
      found = &candidate;
  if (!found || c != d || (saturates && !product->is_integer()))
    fail("the emulator has no mma of this shape and these types");

  Mma mma{*product, found->bands, {}, {}, {}, {}};
  mma.product.k = found->k;
  mma.product.saturates = saturates;
  mma.product.is_sparse = is_sparse;
  mma.product.is_ordered = is_ordered;
  expect_operands(instruction, is_sparse ? 6 : 4, is_sparse ? 6 : 4);
  const int wide = 4 * product->a->packed();  // columns that a register of four lanes holds
  const int sums = 2 * mma.bands / product->packed_sums();
  mma.d = registers_of(instruction, 0, sums, /*may_be_sinks=*/true);
  mma.a = registers_of(instruction, 1, mma.bands * mma.product.a_columns() / wide);
  mma.b = registers_of(instruction, 2, mma.product.k / wide);
  mma.c = registers_of(instruction, 3, sums);
  instruction.run = [mma](Warp& warp, const Instruction& at) {
    if (mma.product.is_integer())
      run_mma<int16_t>(warp, at, mma);
    else
      run_mma<double>(warp, at, mma);
  };
}

}  // namespace

void add_matrix_decoders(Decoders& decoders) {
  decoders["ldmatrix"] = decode_ldmatrix;
  decoders["stmatrix"] = decode_stmatrix;
  decoders["movmatrix"] = decode_movmatrix;
  decoders["mma"] = decode_mma;
}

}  // namespace emulator
