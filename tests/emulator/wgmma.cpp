// wgmma: matrix products of a warpgroup, four warps, which run asynchronously. (PTX ISA,
// "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions".)
//
// Each warp issues every wgmma by itself; the n-th of each of the four is one operation, which
// starts when the last of them has arrived and takes effect as asynchronous operations do, though
// never before an earlier one of its warpgroup. Until a warp has waited for it, the registers of
// the operation are busy there. The operations that were waited for are the steps of an actor: by
// waiting for them a warp has synchronised with what all four warps read through them.
#include "wgmma.h"

#include <cstdio>
#include <deque>
#include <memory>
#include <utility>

#include "async.h"
#include "tensor_core.h"

namespace emulator {
namespace {

constexpr int kWarps = 4, kRows = 64, kRowsOfWarp = 16;
constexpr int kRowBytes = 32;               // of A, whatever the type
constexpr int kARegisters = kRowBytes / 8;  // of a lane: four have a row, and each has two rows
constexpr uint32_t kChunk = 16;             // bytes that swizzling keeps together

struct Wgmma {
  Product product;
  int n = 0;
  std::vector<int> d, a;    // registers; none of A where it lies in shared memory
  std::vector<int> inputs;  // the registers that are read only: A and metadata
  // Positions among the operands, or -1.
  int metadata = -1, scale_d = -1, scale_a = -1, scale_b = -1, major_a = -1, major_b = -1;

  bool has_accumulators_of(const Wgmma& other) const {
    return d == other.d && n == other.n && product.k == other.product.k &&
           product.is_integer() == other.product.is_integer();
  }
};

// A matrix in shared memory, whose rows are those of A or the columns of B: 16-byte chunks in
// lines, along k (K-major) or along the rows for each k (MN-major).
struct Tile {
  bool is_mn_major = false;
  int lines = 1;
  std::vector<uint32_t> chunks;  // their addresses, line by line
};

// "Matrix descriptor format". Of the canonical layouts a line is cut into spans that are as wide as
// the swizzle; eight lines' spans lie one after the other. Adds the bytes of the tile to `reads`.
Tile tile_of(Warp& warp, uint64_t descriptor, bool is_mn_major, int rows, int columns,
             const ElementType& type, std::vector<SharedRange>& reads) {
  constexpr uint32_t kSpans[] = {1, 8, 4, 2};  // unswizzled, and swizzles of 128, 64 and 32 bytes
  const auto bytes = [&](int shift) { return uint32_t(descriptor >> shift & 0x3fff) << 4; };
  const uint32_t span = kSpans[descriptor >> 62];  // chunks
  // Bytes from a span to the next, and to that eight lines below. "Strides": without swizzling,
  // MN-major has them the other way round.
  uint32_t leading = bytes(16), stride = bytes(32);
  if (is_mn_major && span == 1) std::swap(leading, stride);
  Tile tile{is_mn_major, is_mn_major ? columns : rows, {}};
  const uint32_t width = (is_mn_major ? rows : columns) * type.bits / 8 / kChunk;
  if (descriptor >> 49 & 7) warp.fail("the emulator has no base offset in a matrix descriptor");
  if (!is_mn_major && span > 1 && width > span)
    warp.fail("a K-major matrix is wider than the swizzle of its descriptor");
  for (uint32_t i = 0; i < tile.lines * width; ++i) {
    const uint32_t line = i / width, chunk = i % width;
    const uint32_t linear = bytes(0) + line / 8 * stride + line % 8 * span * kChunk +
                            chunk / span * leading + chunk % span * kChunk;
    // Swizzling is of the address, not of the offset in the tile: each 128 bytes permute their
    // chunks differently.
    const uint32_t address = linear ^ (linear / 128 % span * kChunk);
    if (address + kChunk > warp.block.shared.size())
      warp.fail("a matrix descriptor leads out of shared memory");
    tile.chunks.push_back(address);
    if (!reads.empty() && reads.back().place.offset + reads.back().size == address)
      reads.back().size += kChunk;
    else
      reads.push_back({{&warp.block, address}, kChunk});
  }
  return tile;
}

template <typename T>
Matrix<T> read_tile(const Tile& tile, const uint8_t* memory, const ElementType& type) {
  const int bytes = type.bits / 8, elements = int(kChunk) / bytes;  // of a chunk
  const int width = int(tile.chunks.size()) / tile.lines, across = width * elements;
  Matrix<T> matrix(tile.is_mn_major ? across : tile.lines, tile.is_mn_major ? tile.lines : across);
  for (int i = 0; i < tile.lines * across; ++i) {
    uint64_t bits = 0;
    std::memcpy(&bits, memory + tile.chunks[i / elements] + i % elements * bytes, bytes);
    const int line = i / across, at = i % across;
    (tile.is_mn_major ? matrix[at][line] : matrix[line][at]) = Matrix<T>::element(type, bits);
  }
  return matrix;
}

// What the warps of a warpgroup must agree on: the descriptors of A, or 0, and of B, and whether D
// is added to.
using Agreed = std::array<uint64_t, 3>;

struct Operation {
  const Wgmma* wgmma;
  const Instruction* instruction;
  Agreed agreed;
  bool negates = false;
  Tile a_tile, b_tile;
  std::vector<SharedRange> reads;
  std::array<Warp*, kWarps> warps{};  // those that have arrived
  int arrived = 0;

  AsyncPointer async;                   // once all have arrived
  std::shared_ptr<Operation> previous;  // of the warpgroup, until this one takes effect
  Epoch finished;                       // of the warpgroup's actor, once some warp has waited

  int line() const { return instruction->at.line; }
};
using OperationPointer = std::shared_ptr<Operation>;

}  // namespace

struct WgmmaOfWarpgroup {
  int actor;
  uint32_t finished = 0;                  // operations that were waited for
  uint64_t started = 0;                   // operations that all four warps have issued,
  std::deque<OperationPointer> awaiting;  // and those after them
  OperationPointer last;                  // of the started ones
};

struct WgmmaOfWarp {
  std::shared_ptr<WgmmaOfWarpgroup> group;
  uint64_t issued = 0, committed = 0;       // operations
  std::deque<uint64_t> commits;             // of those not waited for, what was issued then
  std::deque<OperationPointer> unfinished;  // the last issued, which it has not waited for
};

namespace {

WgmmaOfWarp& state_of(Warp& warp) {
  if (!warp.wgmma) {
    if (warp.block.warps.size() < size_t(warp.warpgroup() + 1) * kWarps)
      warp.fail("wgmma needs a warpgroup of four warps");
    auto& group = warp.block.wgmma[warp.warpgroup()];
    if (!group) {
      group = std::make_shared<WgmmaOfWarpgroup>();
      group->actor = warp.block.cluster.new_actors(1);
    }
    warp.wgmma = std::make_shared<WgmmaOfWarp>();
    warp.wgmma->group = group;
  }
  return *warp.wgmma;
}

std::string of_line(int line) { return "the wgmma of line " + std::to_string(line); }

Agreed agreed_of(Warp& warp, const Instruction& at, const Wgmma& wgmma) {
  const auto uniform = [&](const Operand& operand, uint64_t mask) {
    const uint64_t* lanes = warp.lanes(operand);
    for (int lane = 1; lane < kLanes; ++lane)
      if ((lanes[lane] ^ lanes[0]) & mask)
        warp.fail("the lanes of the warp give different descriptors or predicates", lane);
    return lanes[0] & mask;
  };
  const Operand& scale_d = at.operands[wgmma.scale_d];
  return {wgmma.a.empty() ? uniform(at.operands[1], ~0ull) : 0, uniform(at.operands[2], ~0ull),
          uniform(scale_d, 1) ^ uint64_t(scale_d.negated)};
}

OperationPointer operation_of(Warp& warp, const Instruction& at, const Wgmma& wgmma,
                              const Agreed& agreed) {
  const auto is = [&](int operand, int32_t value) {  // false where the form has no such operand
    return operand >= 0 && int32_t(warp.lanes(at.operands[operand])[0]) == value;
  };
  const Product& product = wgmma.product;
  auto operation = std::make_shared<Operation>();
  operation->wgmma = &wgmma;
  operation->instruction = &at;
  operation->agreed = agreed;
  operation->negates = is(wgmma.scale_a, -1) != is(wgmma.scale_b, -1);
  if (wgmma.a.empty())
    operation->a_tile = tile_of(warp, agreed[0], is(wgmma.major_a, 1), kRows, product.a_columns(),
                                *product.a, operation->reads);
  operation->b_tile = tile_of(warp, agreed[1], is(wgmma.major_b, 1), wgmma.n, product.k, *product.b,
                              operation->reads);
  return operation;
}

std::vector<uint8_t> columns_of(Warp& warp, const Instruction& at, const Wgmma& wgmma) {
  return sparse_columns(warp, at.operands[wgmma.metadata], at.operands[wgmma.metadata + 1],
                        wgmma.product);
}

// The registers of A are as they were at the issue, for they are busy.
template <typename T>
void multiply(Operation& operation) {
  const Wgmma& wgmma = *operation.wgmma;
  const Product& product = wgmma.product;
  const uint8_t* shared = operation.warps[0]->block.shared.data();
  Matrix<T> b = read_tile<T>(operation.b_tile, shared, *product.b);
  Matrix<T> a(kRows, product.a_columns());
  if (wgmma.a.empty()) a = read_tile<T>(operation.a_tile, shared, *product.a);
  std::vector<uint8_t> columns;
  for (Warp* warp : operation.warps) {
    const int first_row = warp->index % kWarps * kRowsOfWarp;
    for (size_t i = 0; i < wgmma.a.size(); ++i)
      unpack(warp->lanes(wgmma.a[i]), int(i), *product.a, 2, first_row, a);
    if (product.is_sparse) {
      const auto more = columns_of(*warp, *operation.instruction, wgmma);
      columns.insert(columns.end(), more.begin(), more.end());
    }
  }
  if (product.is_sparse) a = spread(a, columns);
  if (operation.negates)
    for (T& value : a.values) value = -value;
  for (int w = 0; w < kWarps; ++w)
    for (size_t i = 0; i < wgmma.d.size(); ++i) {
      uint64_t* d = operation.warps[w]->lanes(wgmma.d[i]);
      for (int lane = 0; lane < kLanes; ++lane)
        d[lane] = accumulate(product, a, b, w * kRowsOfWarp, lane, int(i),
                             operation.agreed[2] ? d[lane] : 0);
    }
}

void apply(Operation& operation) {
  // It may accumulate on what the one before it has yet to write.
  if (operation.previous) take_effect(*operation.previous->async);
  operation.previous = nullptr;
  operation.wgmma->product.is_integer() ? multiply<int16_t>(operation)
                                        : multiply<double>(operation);
}

void mark_busy(Warp& warp) {
  std::fill(warp.busy.begin(), warp.busy.end(), 0);
  for (const OperationPointer& operation : warp.wgmma->unfinished) {
    for (const int slot : operation->wgmma->inputs) warp.busy[slot] = -operation->line();
    for (const int slot : operation->wgmma->d) warp.busy[slot] = operation->line();
  }
  warp.busy_count = int(warp.busy.size() - std::count(warp.busy.begin(), warp.busy.end(), 0));
}

// "wgmma.fence": only wgmma of one shape may use an accumulator without having been waited for.
void check_registers(Warp& warp, const Wgmma& wgmma) {
  const auto& unfinished = warp.wgmma->unfinished;
  const bool continues = std::any_of(
      unfinished.begin(), unfinished.end(),
      [&](const OperationPointer& earlier) { return earlier->wgmma->has_accumulators_of(wgmma); });
  for (const int slot : wgmma.d)
    if (warp.busy[slot] && !continues)
      warp.fail("an accumulator is in use by " + of_line(std::abs(warp.busy[slot])) +
                ", which has other accumulators or another shape");
  for (const int slot : wgmma.inputs)
    if (warp.busy[slot] > 0)
      warp.fail("a register of A is an accumulator of " + of_line(warp.busy[slot]) +
                ", which was not waited for");
}

void issue(Warp& warp, const Instruction& at, const Wgmma& wgmma) {
  if (warp.wgmma_unfenced)
    warp.fail("a register of this wgmma was used since the last wgmma.fence");
  WgmmaOfWarp& mine = state_of(warp);
  WgmmaOfWarpgroup& group = *mine.group;
  const Agreed agreed = agreed_of(warp, at, wgmma);
  const size_t position = mine.issued++ - group.started;
  if (position == group.awaiting.size())
    group.awaiting.push_back(operation_of(warp, at, wgmma, agreed));
  const OperationPointer operation = group.awaiting[position];
  if (operation->instruction != &at || operation->agreed != agreed)
    warp.fail(std::string("another warp of the warpgroup has ") +
              (operation->instruction == &at ? "other descriptors or scale-d in "
                                             : "in the place of this wgmma ") +
              of_line(operation->line()));
  check_registers(warp, wgmma);
  mine.unfinished.push_back(operation);
  mark_busy(warp);

  operation->warps[warp.index % kWarps] = &warp;
  if (wgmma.product.is_sparse) columns_of(warp, at, wgmma);  // fails now if they are wrong
  if (++operation->arrived < kWarps) return check_async_reads(warp, operation->reads, kWholeWarp);

  group.awaiting.pop_front();
  ++group.started;
  operation->previous = std::exchange(group.last, operation);
  AsyncOperation async;
  async.name = "wgmma";
  async.reads = operation->reads;
  // Not a shared pointer, which would be a cycle: whoever must wait for the operation has one.
  async.effect = [operation = operation.get()](AsyncOperation&) { apply(*operation); };
  operation->async = start(warp, std::move(async), /*asynchronous=*/true, kWholeWarp);
}

// The warp has waited for its oldest `count` operations, all of which were started.
void finish_oldest(Warp& warp, size_t count) {
  WgmmaOfWarp& mine = *warp.wgmma;
  for (; count > 0; --count, mine.unfinished.pop_front()) {
    Operation& operation = *mine.unfinished.front();
    if (operation.finished.actor < 0) {
      take_effect(*operation.async);
      operation.finished = {mine.group->actor, ++mine.group->finished};
      finish(*operation.async, operation.finished, kWholeWarp, /*generic=*/false);
    }
    warp.clock.set(operation.finished);
  }
  mark_busy(warp);
}

void wait_group(Warp& warp, const Instruction& at) {
  WgmmaOfWarp& mine = state_of(warp);
  const size_t pending = uint32_t(warp.lanes(at.operands[0])[0]);
  const uint64_t finished = mine.issued - mine.unfinished.size();
  uint64_t until = finished;
  for (; mine.commits.size() > pending; mine.commits.pop_front()) until = mine.commits.front();
  if (until == finished) return;
  const size_t count = until - finished;
  // Warps issue in one order: when the last operation has started, so have those before it.
  const OperationPointer last = mine.unfinished[count - 1];
  if (last->async) return finish_oldest(warp, count);
  Wait wait;
  wait.ready = [last] { return last->async != nullptr; };
  wait.then = [&warp, count] { finish_oldest(warp, count); };
  wait.what = of_line(last->line()) + ", which " + std::to_string(last->arrived) +
              " of the 4 warps of the warpgroup have issued";
  warp.block_on(std::move(wait));
}

void commit_group(Warp& warp, const Instruction&) {
  WgmmaOfWarp& mine = state_of(warp);
  mine.commits.push_back(mine.committed = mine.issued);
}

void fence(Warp& warp, const Instruction&) { warp.wgmma_unfenced = false; }

void decode_mma_async(Modifiers& modifiers, Instruction& instruction) {
  Wgmma wgmma;
  const bool is_sparse = modifiers.take("sp"), saturates = modifiers.take("satfinite");
  const std::string shape = modifiers.take_next();
  int k = 0;
  char rest;
  const bool has_64_rows = std::sscanf(shape.c_str(), "m64n%dk%d%c", &wgmma.n, &k, &rest) == 2;
  Product& product = wgmma.product = take_product(modifiers, k);
  product.is_sparse = is_sparse;
  product.saturates = saturates;
  // "Register Fragments and Shared Memory Matrix Layouts": 32 bytes of k, twice that if A is
  // sparse; integers leave out odd multiples of 8 beyond 24.
  const int n = wgmma.n, step = product.is_integer() && n > 24 ? 16 : 8;
  if (!has_64_rows || n < 8 || n > 256 || n % step || product.row_bytes() != kRowBytes ||
      (is_sparse && product.a->family == Family::kTf32) || (saturates && !product.is_integer()))
    fail("the emulator has no wgmma of this shape and these types");

  // d, a, b, metadata and selector, scale-d, imm-scale-a and -b, imm-trans-a and -b
  expect_operands(instruction, 4, 10);
  const bool a_is_shared = instruction.operands[1].kind != Operand::Kind::kVector;
  int next = 3;
  if (is_sparse) wgmma.metadata = std::exchange(next, next + 2);
  wgmma.scale_d = next++;
  if (!product.is_integer()) {
    wgmma.scale_a = next++;
    wgmma.scale_b = next++;
  }
  if (product.a->bits == 16) {
    if (a_is_shared) wgmma.major_a = next++;
    wgmma.major_b = next++;
  }
  expect_operands(instruction, next, next);
  wgmma.d = registers_of(instruction, 0, n / 2 / product.packed_sums());
  if (!a_is_shared) wgmma.a = wgmma.inputs = registers_of(instruction, 1, kARegisters);
  if (is_sparse) wgmma.inputs.push_back(instruction.operands[wgmma.metadata].slot);
  instruction.run = [wgmma](Warp& warp, const Instruction& at) { issue(warp, at, wgmma); };
}

void decode_wgmma(Modifiers& modifiers, Instruction& instruction) {
  const std::string what = modifiers.take_one({"fence", "mma_async", "commit_group", "wait_group"});
  expect_modifiers(modifiers, {"sync", "aligned"});
  if (what == "mma_async") return decode_mma_async(modifiers, instruction);
  const size_t operands = what == "wait_group" ? 1 : 0;
  expect_operands(instruction, operands, operands);
  instruction.run = what == "fence" ? fence : what == "commit_group" ? commit_group : wait_group;
}

}  // namespace

std::string unfinished_wgmma(const Warp& warp) {
  if (!warp.wgmma || warp.wgmma->unfinished.empty()) return "";
  const WgmmaOfWarp& mine = *warp.wgmma;
  const size_t open = mine.issued - mine.committed;
  return open ? of_line(mine.unfinished[mine.unfinished.size() - open]->line()) +
                    " was not committed"
              : of_line(mine.unfinished[0]->line()) + " was not waited for";
}

void add_wgmma_decoders(Decoders& decoders) { decoders["wgmma"] = decode_wgmma; }

}  // namespace emulator
