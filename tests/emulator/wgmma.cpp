// wgmma: matrix products of a warpgroup, four warps, which run asynchronously. (PTX ISA,
// "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions".)
//
// Each warp issues every wgmma by itself; the n-th of each of the four is one operation, which
// starts when the last of them has arrived and takes effect as asynchronous operations do, though
// never before an earlier one of its warpgroup. Until a warp has waited for it, the registers of
// the operation are busy there. The operations that were waited for are the steps of an actor: by
// waiting for them a warp has synchronised with what all four warps read through them.
#include "wgmma.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "async.h"
#include "machine.h"
#include "program.h"
#include "tensor_core.h"

namespace emulator {
namespace {

constexpr int kWarps = 4, kRows = 64, kRowsOfWarp = 16;
constexpr int kARegisters = 4;   // of a lane, whatever the type: a row has 32 bytes of A
constexpr uint32_t kChunk = 16;  // bytes that swizzling keeps together

struct Wgmma {
  Product product;
  int n;
  std::vector<int> d, a;  // registers; none of A where it lies in shared memory
  // Positions among the operands, or -1.
  int metadata = -1, scale_d = -1, scale_a = -1, scale_b = -1, major_a = -1, major_b = -1;

  bool has_accumulators_of(const Wgmma& other) const {
    return d == other.d && n == other.n && product.k == other.product.k &&
           product.accumulator == other.product.accumulator;
  }
};

// "Matrix descriptor format". The canonical layouts have 16-byte chunks in lines: along k in rows
// of A or columns of B (K-major), or along these for each k (MN-major). A line is cut into spans
// that are as wide as the swizzle; eight lines' spans lie one after the other.
struct Tile {
  uint32_t start = 0;
  uint32_t leading = 0, stride = 0;  // bytes from a span to the next, and to that eight lines below
  uint32_t span = 1;                 // chunks
  bool is_mn_major = false;
  int lines = 0, chunks = 0;  // of a line

  uint32_t address(uint32_t line, uint32_t chunk) const {
    const uint32_t linear = start + line / 8 * stride + line % 8 * span * kChunk +
                            chunk / span * leading + chunk % span * kChunk;
    // Swizzling is of the address, not of the offset in the tile: each 128 bytes permute their
    // chunks differently.
    return linear ^ (linear / 128 % span * kChunk);
  }

  template <typename F>
  void for_chunks(F&& f) const {
    for (int line = 0; line < lines; ++line)
      for (int chunk = 0; chunk < chunks; ++chunk) f(address(line, chunk), line, chunk);
  }
};

Tile tile_of(Warp& warp, uint64_t descriptor, bool is_mn_major, int rows, int columns,
             const ElementType& type) {
  constexpr uint32_t kSpans[] = {1, 8, 4, 2};  // unswizzled, and swizzles of 128, 64 and 32 bytes
  const auto bytes = [&](int shift) { return uint32_t(descriptor >> shift & 0x3fff) << 4; };
  Tile tile;
  tile.start = bytes(0);
  tile.leading = bytes(16);
  tile.stride = bytes(32);
  tile.span = kSpans[descriptor >> 62];
  tile.is_mn_major = is_mn_major;
  // "Strides": without swizzling, MN-major has them the other way round.
  if (is_mn_major && tile.span == 1) std::swap(tile.leading, tile.stride);
  tile.lines = is_mn_major ? columns : rows;
  tile.chunks = (is_mn_major ? rows : columns) * type.bits / 8 / int(kChunk);
  if (descriptor >> 49 & 7) warp.fail("the emulator has no base offset in a matrix descriptor");
  if (!is_mn_major && tile.span > 1 && tile.chunks > int(tile.span))
    warp.fail("a K-major matrix is wider than the swizzle of its descriptor");
  tile.for_chunks([&](uint32_t address, int, int) {
    if (address + kChunk > warp.block.shared.size())
      warp.fail("a matrix descriptor leads out of shared memory");
  });
  return tile;
}

// The matrix, whose rows are those of A or the columns of B.
template <typename T>
Matrix<T> read_tile(const Tile& tile, const uint8_t* memory, const ElementType& type) {
  const int bytes = type.bits / 8, elements = int(kChunk) / bytes;  // of a chunk
  const int across = tile.chunks * elements;
  Matrix<T> matrix(tile.is_mn_major ? across : tile.lines, tile.is_mn_major ? tile.lines : across);
  tile.for_chunks([&](uint32_t address, int line, int chunk) {
    for (int i = 0; i < elements; ++i) {
      uint64_t bits = 0;
      std::memcpy(&bits, memory + address + i * bytes, bytes);
      const int at = chunk * elements + i;
      (tile.is_mn_major ? matrix[at][line] : matrix[line][at]) = element_value<T>(type, bits);
    }
  });
  return matrix;
}

// The bytes that tiles lie in, in as few ranges as possible.
std::vector<SharedRange> ranges_of(Block& block, const std::vector<const Tile*>& tiles) {
  std::vector<uint32_t> chunks;
  for (const Tile* tile : tiles)
    tile->for_chunks([&](uint32_t address, int, int) { chunks.push_back(address); });
  std::sort(chunks.begin(), chunks.end());
  chunks.erase(std::unique(chunks.begin(), chunks.end()), chunks.end());
  std::vector<SharedRange> ranges;
  for (const uint32_t chunk : chunks) {
    if (!ranges.empty() && ranges.back().place.offset + ranges.back().size == chunk)
      ranges.back().size += kChunk;
    else
      ranges.push_back({{&block, chunk}, kChunk});
  }
  return ranges;
}

// What the warps of a warpgroup must agree on.
struct Request {
  const Instruction* instruction = nullptr;
  uint64_t a = 0, b = 0;    // descriptors
  bool accumulates = true;  // or D = A * B

  bool operator==(const Request& other) const {
    return instruction == other.instruction && a == other.a && b == other.b &&
           accumulates == other.accumulates;
  }
};

struct Operation {
  std::shared_ptr<const Wgmma> wgmma;
  Request request;
  bool negates = false;
  Tile a_tile, b_tile;
  std::vector<SharedRange> reads;
  // Of each warp, when it has arrived:
  std::array<Warp*, kWarps> warps{};
  std::array<std::vector<uint64_t>, kWarps> a;       // the registers
  std::array<std::vector<uint8_t>, kWarps> columns;  // of a sparse A
  int arrived = 0;

  AsyncPointer async;                   // once all have arrived
  std::shared_ptr<Operation> previous;  // of the warpgroup, until this one takes effect
  Epoch finished;                       // of the warpgroup's actor, once some warp has waited

  int line() const { return request.instruction->at.line; }
};
using OperationPointer = std::shared_ptr<Operation>;
using Group = std::vector<OperationPointer>;

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
  uint64_t issued = 0;
  Group open;
  std::deque<Group> committed;

  template <typename F>
  void for_unfinished(F&& f) const {
    for (const Group& closed : committed)
      for (const OperationPointer& operation : closed) f(*operation);
    for (const OperationPointer& operation : open) f(*operation);
  }
};

namespace {

WgmmaOfWarp& state_of(Warp& warp) {
  if (!warp.wgmma) {
    if (warp.block.warps.size() < size_t(warp.warpgroup() + 1) * kWarps)
      warp.fail("wgmma needs a warpgroup of four warps");
    auto& group = warp.block.wgmma[warp.warpgroup()];
    if (!group) {
      group = std::make_shared<WgmmaOfWarpgroup>();
      group->actor = warp.block.cluster.new_actor();
    }
    warp.wgmma = std::make_shared<WgmmaOfWarp>();
    warp.wgmma->group = group;
  }
  return *warp.wgmma;
}

std::string of_line(const Operation& operation) {
  return "the wgmma of line " + std::to_string(operation.line());
}

// The value of an operand in all lanes.
uint64_t uniform(Warp& warp, const Operand& operand, uint64_t mask) {
  const uint64_t* lanes = warp.lanes(operand);
  for (int lane = 1; lane < kLanes; ++lane)
    if ((lanes[lane] ^ lanes[0]) & mask)
      warp.fail("the lanes of the warp give different descriptors or predicates", lane);
  return lanes[0] & mask;
}

Request request_of(Warp& warp, const Instruction& at, const Wgmma& wgmma) {
  const Operand& scale_d = at.operands[wgmma.scale_d];
  Request request;
  request.instruction = &at;
  if (wgmma.a.empty()) request.a = uniform(warp, at.operands[1], ~0ull);
  request.b = uniform(warp, at.operands[2], ~0ull);
  request.accumulates = (uniform(warp, scale_d, 1) != 0) != scale_d.negated;
  return request;
}

// An operand that is 0 or 1 (of -1 or 1, whether it is -1); false where the form has none.
bool is_set(Warp& warp, const Instruction& at, int operand, int32_t value) {
  return operand >= 0 && int32_t(warp.lanes(at.operands[operand])[0]) == value;
}

OperationPointer operation_of(Warp& warp, const Instruction& at,
                              const std::shared_ptr<const Wgmma>& wgmma, const Request& request) {
  auto operation = std::make_shared<Operation>();
  const Product& product = wgmma->product;
  const bool a_is_mn_major = is_set(warp, at, wgmma->major_a, 1);
  const bool b_is_mn_major = is_set(warp, at, wgmma->major_b, 1);
  operation->wgmma = wgmma;
  operation->request = request;
  operation->negates = is_set(warp, at, wgmma->scale_a, -1) != is_set(warp, at, wgmma->scale_b, -1);
  operation->b_tile = tile_of(warp, request.b, b_is_mn_major, wgmma->n, product.k, *product.b);
  std::vector<const Tile*> tiles{&operation->b_tile};
  if (wgmma->a.empty()) {
    operation->a_tile =
        tile_of(warp, request.a, a_is_mn_major, kRows, product.a_columns(), *product.a);
    tiles.push_back(&operation->a_tile);
  }
  operation->reads = ranges_of(warp.block, tiles);
  return operation;
}

template <typename T>
void multiply(Operation& operation) {
  const Wgmma& wgmma = *operation.wgmma;
  const Product& product = wgmma.product;
  const uint8_t* shared = operation.warps[0]->block.shared.data();
  Matrix<T> b = read_tile<T>(operation.b_tile, shared, *product.b);
  Matrix<T> a(kRows, product.a_columns());
  if (wgmma.a.empty()) a = read_tile<T>(operation.a_tile, shared, *product.a);
  std::vector<uint8_t> columns;
  for (int w = 0; w < kWarps; ++w) {
    for (size_t i = 0; i < wgmma.a.size(); ++i)
      unpack(&operation.a[w][i * kLanes], int(i), *product.a, kRowsOfWarp / 8, w * kRowsOfWarp, a);
    columns.insert(columns.end(), operation.columns[w].begin(), operation.columns[w].end());
  }
  if (product.is_sparse) a = spread(a, columns);
  if (operation.negates)
    for (T& value : a.values) value = -value;
  for (int w = 0; w < kWarps; ++w)
    for (size_t i = 0; i < wgmma.d.size(); ++i) {
      uint64_t* d = operation.warps[w]->lanes(wgmma.d[i]);
      for (int lane = 0; lane < kLanes; ++lane)
        d[lane] = accumulate(product, a, b, w * kRowsOfWarp, lane, int(i),
                             operation.request.accumulates ? d[lane] : 0);
    }
}

void apply(Operation& operation) {
  // It may accumulate on what the one before it has yet to write.
  if (operation.previous) take_effect(*operation.previous->async);
  operation.previous = nullptr;
  if (operation.wgmma->product.is_integer())
    multiply<int16_t>(operation);
  else
    multiply<double>(operation);
}

void set_busy(Warp& warp, int slot, int line) {
  warp.busy_count += (line != 0) - (warp.busy[slot] != 0);
  warp.busy[slot] = line;
}

// The registers that it reads only.
std::vector<int> inputs_of(const Operation& operation) {
  std::vector<int> slots = operation.wgmma->a;
  if (operation.wgmma->metadata >= 0)
    slots.push_back(operation.request.instruction->operands[operation.wgmma->metadata].slot);
  return slots;
}

void mark_busy(Warp& warp, const Operation& operation) {
  for (const int slot : inputs_of(operation)) set_busy(warp, slot, -operation.line());
  for (const int slot : operation.wgmma->d) set_busy(warp, slot, operation.line());
}

// "wgmma.fence": only wgmma of one shape may use an accumulator without having been waited for.
void take_registers(Warp& warp, const WgmmaOfWarp& mine, const Operation& operation) {
  bool continues = false;
  mine.for_unfinished([&](const Operation& earlier) {
    continues |= earlier.wgmma->has_accumulators_of(*operation.wgmma);
  });
  for (const int slot : operation.wgmma->d)
    if (warp.busy[slot] && !continues)
      warp.fail("an accumulator is in use by the wgmma of line " +
                std::to_string(std::abs(warp.busy[slot])) +
                ", which has other accumulators or another shape");
  for (const int slot : inputs_of(operation))
    if (warp.busy[slot] > 0)
      warp.fail("a register of A is an accumulator of the wgmma of line " +
                std::to_string(warp.busy[slot]) + ", which was not waited for");
  mark_busy(warp, operation);
}

void capture_inputs(Warp& warp, const Instruction& at, Operation& operation) {
  const Wgmma& wgmma = *operation.wgmma;
  const int w = warp.index % kWarps;
  operation.warps[w] = &warp;
  for (const int slot : wgmma.a)
    operation.a[w].insert(operation.a[w].end(), warp.lanes(slot), warp.lanes(slot) + kLanes);
  if (wgmma.product.is_sparse) {
    const int selector = int(warp.lanes(at.operands[wgmma.metadata + 1])[0]);
    const uint64_t* metadata = warp.lanes(at.operands[wgmma.metadata]);
    operation.columns[w] = sparse_columns(warp, metadata, selector, wgmma.product);
  }
  ++operation.arrived;
}

void start_operation(Warp& warp, WgmmaOfWarpgroup& group, const OperationPointer& operation) {
  group.awaiting.pop_front();
  ++group.started;
  operation->previous = std::exchange(group.last, operation);
  AsyncOperation async;
  async.line = operation->line();
  async.name = "wgmma";
  async.cluster = &warp.block.cluster;
  async.reads = operation->reads;
  // Not a shared pointer, which would be a cycle: whoever must wait for the operation has one.
  async.effect = [operation = operation.get()] { apply(*operation); };
  operation->async = start(warp, std::move(async), /*asynchronous=*/true, kWholeWarp);
}

void issue(Warp& warp, const Instruction& at, const std::shared_ptr<const Wgmma>& wgmma) {
  warp.expect_converged();
  if (warp.wgmma_unfenced)
    warp.fail("a register of this wgmma was written since the last wgmma.fence");
  WgmmaOfWarp& mine = state_of(warp);
  WgmmaOfWarpgroup& group = *mine.group;
  const Request request = request_of(warp, at, *wgmma);
  const size_t position = mine.issued++ - group.started;
  if (position == group.awaiting.size())
    group.awaiting.push_back(operation_of(warp, at, wgmma, request));
  const OperationPointer operation = group.awaiting[position];
  if (!(operation->request == request))
    warp.fail(std::string("another warp of the warpgroup has ") +
              (operation->request.instruction == &at ? "other descriptors or scale-d in "
                                                     : "in the place of this wgmma ") +
              of_line(*operation));
  take_registers(warp, mine, *operation);
  capture_inputs(warp, at, *operation);
  mine.open.push_back(operation);
  if (operation->arrived == kWarps)
    start_operation(warp, group, operation);
  else
    check_async_reads(warp, operation->reads, kWholeWarp);
}

// The warp has waited for its oldest `count` groups, all of which were started.
void finish_groups(Warp& warp, size_t count) {
  WgmmaOfWarp& mine = *warp.wgmma;
  WgmmaOfWarpgroup& group = *mine.group;
  for (; count > 0; --count, mine.committed.pop_front())
    for (const OperationPointer& operation : mine.committed.front()) {
      if (operation->finished.actor < 0) {
        take_effect(*operation->async);
        operation->finished = {group.actor, ++group.finished};
        finish(*operation->async, operation->finished, kWholeWarp, /*generic=*/false);
      }
      warp.clock.set(operation->finished);
      for (const int slot : operation->wgmma->d) set_busy(warp, slot, 0);
      for (const int slot : inputs_of(*operation)) set_busy(warp, slot, 0);
    }
  mine.for_unfinished([&](const Operation& operation) { mark_busy(warp, operation); });
}

void wait_group(Warp& warp, const Instruction& at) {
  warp.expect_converged();
  const WgmmaOfWarp& mine = state_of(warp);
  const size_t pending = uint32_t(warp.lanes(at.operands[0])[0]);
  const size_t count = mine.committed.size() - std::min(mine.committed.size(), pending);
  OperationPointer last;
  for (size_t i = 0; i < count; ++i)
    if (!mine.committed[i].empty()) last = mine.committed[i].back();
  // Warps issue in one order: when the last operation has started, so have those before it.
  if (!last || last->async) return finish_groups(warp, count);
  Wait wait;
  wait.ready = [last] { return last->async != nullptr; };
  wait.then = [&warp, count] { finish_groups(warp, count); };
  wait.what = of_line(*last) + ", which " + std::to_string(last->arrived) +
              " of the 4 warps of the warpgroup have issued";
  warp.block_on(std::move(wait));
}

void commit_group(Warp& warp, const Instruction&) {
  warp.expect_converged();
  WgmmaOfWarp& mine = state_of(warp);
  mine.committed.push_back(std::exchange(mine.open, {}));
}

void fence(Warp& warp, const Instruction&) {
  warp.expect_converged();
  warp.wgmma_unfenced = false;
}

// "Register Fragments and Shared Memory Matrix Layouts": 32 bytes of k, twice that if A is sparse;
// integers leave out odd multiples of 8 beyond 24.
bool has_shape(const std::string& shape, Wgmma& wgmma) {
  Product& product = wgmma.product;
  char rest;
  if (std::sscanf(shape.c_str(), "m64n%dk%d%c", &wgmma.n, &product.k, &rest) != 2) return false;
  const int step = product.is_integer() && wgmma.n > 24 ? 16 : 8;
  const bool has_sparse = product.a->family != Family::kTf32;
  return wgmma.n >= 8 && wgmma.n <= 256 && wgmma.n % step == 0 &&
         product.a_columns() * product.a->bits == 32 * 8 && (has_sparse || !product.is_sparse);
}

void decode_mma_async(Modifiers& modifiers, Instruction& instruction) {
  auto wgmma = std::make_shared<Wgmma>();
  const bool is_sparse = modifiers.take("sp");
  const bool saturates = modifiers.take("satfinite");
  const std::string shape = modifiers.take_next(), d = modifiers.take_next(),
                    a = modifiers.take_next(), b = modifiers.take_next();
  const std::optional<Product> product = product_of(d, a, b);
  if (!product) fail("the emulator has no wgmma of these types");
  wgmma->product = *product;
  wgmma->product.is_sparse = is_sparse;
  wgmma->product.saturates = saturates;
  if (!has_shape(shape, *wgmma) || (saturates && !product->is_integer()))
    fail("the emulator has no wgmma of this shape and these types");

  // d, a, b, metadata and selector, scale-d, imm-scale-a and -b, imm-trans-a and -b
  expect_operands(instruction, 4, 10);
  const Family family = product->a->family;
  const bool a_is_shared = instruction.operands[1].kind != Operand::Kind::kVector;
  int next = 3;
  if (is_sparse) wgmma->metadata = std::exchange(next, next + 2);
  wgmma->scale_d = next++;
  if (!product->is_integer()) {
    wgmma->scale_a = next++;
    wgmma->scale_b = next++;
  }
  if (family == Family::kF16 || family == Family::kBf16) {
    if (a_is_shared) wgmma->major_a = next++;
    wgmma->major_b = next++;
  }
  expect_operands(instruction, next, next);
  wgmma->d = registers_of(instruction, 0, wgmma->n / 2 / product->packed_sums());
  if (!a_is_shared) wgmma->a = registers_of(instruction, 1, kARegisters);
  instruction.run = [wgmma = std::shared_ptr<const Wgmma>(wgmma)](
                        Warp& warp, const Instruction& at) { issue(warp, at, wgmma); };
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
  if (!warp.wgmma) return "";
  std::string left;
  warp.wgmma->for_unfinished([&](const Operation& operation) {
    if (left.empty()) left = of_line(operation) + " was not waited for";
  });
  if (!warp.wgmma->open.empty()) left = of_line(*warp.wgmma->open.front()) + " was not committed";
  return left;
}

void add_wgmma_decoders(Decoders& decoders) { decoders["wgmma"] = decode_wgmma; }

}  // namespace emulator
