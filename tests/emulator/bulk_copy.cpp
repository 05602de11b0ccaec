// Bulk copies, plain and of tensors: cp.async.bulk, cp.reduce.async.bulk, their groups, prefetches.
// An opcode becomes a Form. What an instruction touches of global memory, one piece or the rows of
// a tensor's box, becomes a GlobalSide, checked at once. A copy into shared memory completes
// transactions of an mbarrier when it takes effect; one out of it belongs to its lane's bulk group.
// (PTX ISA, "Data Movement and Conversion Instructions: Bulk copy" and ".. Tensor copy".)
#include "bulk_copy.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "alu.h"
#include "async.h"
#include "mbarrier.h"
#include "memory.h"
#include "tensor_map.h"

namespace emulator {
namespace {

constexpr char kName[] = "bulk copy";       // in messages
constexpr uint32_t kChunk = 16;             // bytes: what sizes are multiples of, and swizzles move
constexpr uint32_t kTensorAlignment = 128;  // of a box in shared memory
constexpr uint32_t kMapBytes = 128, kMapAlignment = 64;
constexpr uint32_t kMbarrierBytes = 8;

// How bytes of shared memory go to global memory.
using Write = std::function<void(uint8_t* to, const uint8_t* from, uint32_t size)>;

void overwrite(uint8_t* to, const uint8_t* from, uint32_t size) { std::memcpy(to, from, size); }

template <typename T, typename F>
Write on_each(F f) {
  return [f](uint8_t* to, const uint8_t* from, uint32_t size) {
    for (uint32_t at = 0; at < size; at += sizeof(T)) {
      T old, value;
      std::memcpy(&old, to + at, sizeof(T));
      std::memcpy(&value, from + at, sizeof(T));
      const T result = f(old, value);
      std::memcpy(to + at, &result, sizeof(T));
    }
  };
}

// Of these floating-point sums that of .f32 flushes subnormals, of its inputs too.
template <typename T>
T sum(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return T(wrapping(a) + wrapping(b));
  } else if constexpr (std::is_same_v<T, float>) {
    return flush(narrow<T>(flush(a) + flush(b)));
  } else {
    return narrow<T>(widen(a) + widen(b));
  }
}

uint32_t increment(uint32_t old, uint32_t value) { return old >= value ? 0 : old + 1; }
uint32_t decrement(uint32_t old, uint32_t value) {
  return old == 0 || old > value ? value : old - 1;
}

// Fails on what cp.reduce.async.bulk does not have. Left out: .min and .max of .f16 and .bf16.
Write reduction(const std::string& operation, const std::string& type) {
  using Sums = Types<uint32_t, int32_t, uint64_t, float, double, F16, BF16>;
  using Ordered = Types<uint32_t, int32_t, uint64_t, int64_t>;
  using Bits = Types<uint32_t, uint64_t>;
  Write write;
  const auto set = [&](auto types, const std::string& name, auto f) {
    with_type(types, name, [&](auto t) { write = on_each<typename decltype(t)::type>(f); });
  };
  if (operation == "add")
    set(Sums(), type, [](auto old, auto value) { return sum(old, value); });
  else if (operation == "min")
    set(Ordered(), type, [](auto old, auto value) { return std::min(old, value); });
  else if (operation == "max")
    set(Ordered(), type, [](auto old, auto value) { return std::max(old, value); });
  else if (operation == "inc")
    set(Types<uint32_t>(), type, increment);
  else if (operation == "dec")
    set(Types<uint32_t>(), type, decrement);
  else if (operation == "and")
    set(Bits(), "u" + type.substr(1), [](auto old, auto value) { return old & value; });
  else if (operation == "or")
    set(Bits(), "u" + type.substr(1), [](auto old, auto value) { return old | value; });
  else
    set(Bits(), "u" + type.substr(1), [](auto old, auto value) { return old ^ value; });
  return write;
}

// An opcode, decoded.
struct Form {
  int dimensions = 0;       // of a tensor; 0 where the copy is of one piece
  size_t global = 0;        // the operand that is its address, or a map with coordinates
  size_t size = 0;          // the operand; of one piece
  size_t mbarrier = 0;      // the operand; of a copy into shared memory
  bool multicast = false;   // the operand after the mbarrier is a mask of blocks
  bool into_own = false;    // the destination is .shared::cta
  bool stores = false;      // into global memory
  std::string operation;    // of a reduction: "add"
  Write write = overwrite;  // but of a tensor's reduction it depends on the map
};

uint64_t value(Warp& warp, const Operand& operand, int lane) { return warp.lanes(operand)[lane]; }

uint64_t address(Warp& warp, const Operand& operand, int lane) {
  return (operand.slot < 0 ? 0 : value(warp, operand, lane)) + operand.offset;
}

SharedPlace place_of(Warp& warp, const Operand& operand, int lane, uint32_t size,
                     uint32_t alignment) {
  return shared_place(warp, lane, uint32_t(address(warp, operand, lane)), size, alignment);
}

SharedPlace own_place_of(Warp& warp, const Operand& operand, int lane, uint32_t size,
                         uint32_t alignment) {
  const SharedPlace place = place_of(warp, operand, lane, size, alignment);
  if (place.block != &warp.block) warp.fail("a .shared::cta address is of another block", lane);
  return place;
}

uint32_t size_of(Warp& warp, const Operand& operand, int lane) {
  const uint32_t size = uint32_t(value(warp, operand, lane));
  if (size % kChunk)
    warp.fail("the size, " + std::to_string(size) + ", is not a multiple of 16 bytes", lane);
  return size;
}

// What a copy touches of global memory, and how that lies in shared memory.
struct GlobalSide {
  std::vector<BoxRow> rows;
  uint32_t bytes = 0, alignment = kChunk;  // in shared memory
  int swizzle = 0;
  bool fill_nan = false;
  Write write;
};

GlobalSide piece(Warp& warp, const Instruction& instruction, const Form& form, int lane) {
  GlobalSide side;
  side.bytes = size_of(warp, instruction.operands[form.size], lane);
  const uint64_t at = address(warp, instruction.operands[form.global], lane);
  side.rows = {{global_pointer(warp, lane, at, side.bytes, kChunk, form.stores), 0, side.bytes}};
  side.write = form.write;
  return side;
}

Write write_of(const Form& form, const TensorMap& map) {
  if (form.operation.empty()) return overwrite;
  return reduction(form.operation, element_type(map));
}

std::array<int32_t, 5> coordinates_of(Warp& warp, const Operand& operand, const Form& form,
                                      int lane) {
  std::array<int32_t, 5> coordinates{};
  for (int i = 0; i < form.dimensions; ++i) {
    coordinates[i] = int32_t(value(warp, operand.parts[0].parts[i], lane));
    // "Restriction on Tensor Copy instructions", of the .global.shared::cta direction.
    if (form.stores && coordinates[i] < 0) warp.fail("a store's coordinate is negative", lane);
  }
  return coordinates;
}

GlobalSide box(Warp& warp, const Instruction& instruction, const Form& form, int lane) {
  const Operand& operand = instruction.operands[form.global];
  const TensorMap map = decode_tiled(global_pointer(warp, lane, address(warp, operand, lane),
                                                    kMapBytes, kMapAlignment, /*writes=*/false));
  if (int(map.rank) != form.dimensions)
    warp.fail("the tensor map is of rank " + std::to_string(map.rank), lane);
  GlobalSide side;
  side.rows = rows_in_bounds(map, coordinates_of(warp, operand, form, lane).data());
  side.bytes = box_bytes(map);
  side.alignment = kTensorAlignment;
  side.swizzle = map.swizzle;
  side.fill_nan = map.fill_nan;
  side.write = write_of(form, map);
  for (const BoxRow& row : side.rows)
    global_pointer(warp, lane, reinterpret_cast<uint64_t>(row.global), row.size, /*alignment=*/1,
                   form.stores);
  return side;
}

GlobalSide global_side(Warp& warp, const Instruction& instruction, const Form& form, int lane) {
  return (form.dimensions ? box : piece)(warp, instruction, form, lane);
}

// Calls f(offset, global, size) for all that is in bounds of a box at `offset` of shared memory, in
// pieces that swizzling leaves whole.
template <typename F>
void for_pieces(const GlobalSide& side, uint32_t offset, F f) {
  for (const BoxRow& row : side.rows)
    for (uint32_t at = 0, size; at < row.size; at += size) {
      const uint32_t begin = offset + row.offset + at;
      size = std::min(row.size - at, kChunk - begin % kChunk);
      f(swizzled(begin, side.swizzle), row.global + at, size);
    }
}

void read_global(const GlobalSide& side, SharedPlace place) {
  uint8_t* const shared = place.block->shared.data();
  // The NaN that fma.oob knows, 0x7fff, whatever the type.
  for (uint32_t i = 0; i < side.bytes; ++i)
    shared[place.offset + i] = !side.fill_nan ? 0 : i % 2 ? 0x7f : 0xff;
  for_pieces(side, place.offset, [&](uint32_t offset, const uint8_t* global, uint32_t size) {
    std::memcpy(shared + offset, global, size);
  });
}

void write_global(const GlobalSide& side, SharedPlace place) {
  const uint8_t* const shared = place.block->shared.data();
  for_pieces(side, place.offset, [&](uint32_t offset, uint8_t* global, uint32_t size) {
    side.write(global, shared + offset, size);
  });
}

// What a store reads. What is out of bounds is not among it: a kernel need not have written that.
std::vector<SharedRange> ranges_in_bounds(const GlobalSide& side, SharedPlace place) {
  std::vector<std::pair<uint32_t, uint32_t>> pieces;
  for_pieces(side, place.offset, [&](uint32_t offset, const uint8_t*, uint32_t size) {
    pieces.push_back({offset, size});
  });
  std::sort(pieces.begin(), pieces.end());
  std::vector<SharedRange> ranges;
  for (const auto& [offset, size] : pieces)
    if (!ranges.empty() && ranges.back().place.offset + ranges.back().size == offset)
      ranges.back().size += size;
    else
      ranges.push_back({{place.block, offset}, size});
  return ranges;
}

void complete(AsyncOperation& operation, SharedPlace place) {
  const auto found = place.block->mbarriers.find(place.offset);
  if (found == place.block->mbarriers.end())
    fail("the mbarrier of the " + operation.name + " of PTX line " +
         std::to_string(operation.line) + " was gone when the copy completed");
  finish(operation, completion_epoch(found->second), kWholeWarp, /*generic=*/false);
  complete_transactions(found->second, operation.writes.front().size);
}

// Starts an operation that completes by an mbarrier.
void start_counted(Warp& warp, int lane, AsyncOperation operation, SharedPlace mbarrier) {
  mbarrier_at(warp, lane, mbarrier);
  // The effect needs the operation, which has its place only when `start` returns; by then it may
  // have taken effect.
  auto self = std::make_shared<std::weak_ptr<AsyncOperation>>();
  operation.effect = [move = std::move(operation.effect), self, mbarrier] {
    move();
    if (const AsyncPointer started = self->lock()) complete(*started, mbarrier);
  };
  const AsyncPointer started = start(warp, std::move(operation), /*asynchronous=*/true, lane);
  *self = started;
  if (started->took_effect) complete(*started, mbarrier);
}

struct Target {
  SharedPlace place, mbarrier;
};

Target target_of(Warp& warp, const Instruction& instruction, const Form& form, int lane,
                 const GlobalSide& side) {
  const std::vector<Operand>& operands = instruction.operands;
  const auto place = form.into_own ? own_place_of : place_of;
  const Target target = {
      place(warp, operands[0], lane, side.bytes, side.alignment),
      place_of(warp, operands[form.mbarrier], lane, kMbarrierBytes, kMbarrierBytes)};
  if (target.mbarrier.block != target.place.block)
    warp.fail("the mbarrier is not in the block that the copy goes to", lane);
  return target;
}

// The same offsets in each block of a mask.
std::vector<Target> multicast(Warp& warp, const Target& target, uint16_t mask, int lane) {
  const auto& blocks = warp.block.cluster.blocks;
  if (mask >> blocks.size()) warp.fail("the mask names blocks that the cluster lacks", lane);
  std::vector<Target> targets;
  for (const auto& block : blocks)
    if (mask >> block->rank & 1)
      targets.push_back(
          {{block.get(), target.place.offset}, {block.get(), target.mbarrier.offset}});
  return targets;
}

// From global to shared memory.
void copy_in(Warp& warp, const Instruction& instruction, const Form& form, int lane) {
  const GlobalSide side = global_side(warp, instruction, form, lane);
  const Target target = target_of(warp, instruction, form, lane, side);
  std::vector<Target> targets = {target};
  if (form.multicast) {
    const Operand& mask = instruction.operands[form.mbarrier + 1];
    targets = multicast(warp, target, uint16_t(value(warp, mask, lane)), lane);
  }
  // Each destination is an operation of its own, as what orders it is its own mbarrier.
  for (const Target& to : targets) {
    AsyncOperation operation;
    operation.name = kName;
    operation.writes = {{to.place, side.bytes}};
    operation.effect = [side, place = to.place] { read_global(side, place); };
    start_counted(warp, lane, std::move(operation), to.mbarrier);
  }
}

// From a block's shared memory to another's.
void copy_across(Warp& warp, const Instruction& instruction, const Form& form, int lane) {
  GlobalSide none;
  none.bytes = size_of(warp, instruction.operands[form.size], lane);
  const Target target = target_of(warp, instruction, form, lane, none);
  const SharedPlace to = target.place;
  const SharedPlace from = own_place_of(warp, instruction.operands[1], lane, none.bytes, kChunk);
  if (to.block == &warp.block) warp.fail("the destination is not in another block", lane);
  AsyncOperation operation;
  operation.name = kName;
  operation.reads = {{from, none.bytes}};
  operation.writes = {{to, none.bytes}};
  operation.effect = [to, from, size = none.bytes] {
    std::memcpy(to.block->shared.data() + to.offset, from.block->shared.data() + from.offset, size);
  };
  start_counted(warp, lane, std::move(operation), target.mbarrier);
}

// From shared to global memory.
void copy_out(Warp& warp, const Instruction& instruction, const Form& form, int lane) {
  const GlobalSide side = global_side(warp, instruction, form, lane);
  const SharedPlace from =
      own_place_of(warp, instruction.operands[1], lane, side.bytes, side.alignment);
  AsyncOperation operation;
  operation.name = kName;
  operation.reads = ranges_in_bounds(side, from);
  operation.effect = [side, from] { write_global(side, from); };
  warp.bulk_copies[lane].open.push_back(
      start(warp, std::move(operation), /*asynchronous=*/true, lane));
}

void commit(Warp& warp, const Instruction&, const Form&, int lane) {
  CopyGroups& groups = warp.bulk_copies[lane];
  groups.committed.push_back(std::exchange(groups.open, {}));
}

// For .read too: it lets the writes come later, which no kernel can tell.
void wait(Warp& warp, const Instruction& instruction, const Form&, int lane) {
  CopyGroups& groups = warp.bulk_copies[lane];
  const uint32_t pending = uint32_t(value(warp, instruction.operands[0], lane));
  for (; groups.committed.size() > pending; groups.committed.pop_front())
    for (const AsyncPointer& operation : groups.committed.front()) {
      take_effect(*operation);
      finish(*operation, warp.now(), lane, /*generic=*/false);
    }
}

template <typename F>
Handler per_lane(F f, const Form& form = {}) {
  return [f, form](Warp& warp, const Instruction& instruction) {
    for_lanes(warp.active, [&](int lane) { f(warp, instruction, form, lane); });
  };
}

// Takes the dimensions of a tensor, and whether there is a cache hint; then `others` operands are
// left beside the global side's, which begins at `global`.
Form take_form(Modifiers& modifiers, const Instruction& instruction, size_t global, size_t others) {
  Form form;
  form.global = global;
  const bool is_tensor = modifiers.take("tensor");
  const size_t count = others + (is_tensor ? 1 : 2) + modifiers.take("L2::cache_hint");
  expect_operands(instruction, count, count);
  if (!is_tensor) return form;
  modifiers.take("tile");
  form.dimensions = modifiers.take_one({"1d", "2d", "3d", "4d", "5d"})[0] - '0';
  const std::vector<Operand>& parts = instruction.operands[global].parts;
  if (parts.size() != 1 || parts[0].parts.size() != size_t(form.dimensions))
    fail("needs [map, {..}] with " + std::to_string(form.dimensions) + " coordinates");
  return form;
}

void decode_prefetch(Modifiers& modifiers, Instruction& instruction) {
  Form form = take_form(modifiers, instruction, 0, 0);
  form.size = 1;
  modifiers.take_one({"L2"});
  modifiers.take_one({"global"});
  instruction.run = per_lane(global_side, form);
}

void take_reduction(Modifiers& modifiers, Form& form) {
  form.operation = modifiers.take_one({"add", "min", "max", "inc", "dec", "and", "or", "xor"});
  if (form.dimensions) return;
  const std::string type = modifiers.take_type();
  form.write = reduction(form.operation, type);
  const bool is_half_sum = form.operation == "add" && (type == "f16" || type == "bf16");
  if (modifiers.take("noftz") != is_half_sum) fail("takes .noftz with .add of .f16 and .bf16 only");
}

// [to], [from], size or [map, {..}], [from].
void decode_copy_out(Modifiers& modifiers, Instruction& instruction) {
  Form form = take_form(modifiers, instruction, 0, 1);
  form.size = 2;
  form.stores = true;
  if (modifiers.take("reduce")) take_reduction(modifiers, form);
  if (modifiers.take_next() != "global" || modifiers.take_next() != "shared::cta")
    fail("copies with .bulk_group are .global.shared::cta");
  instruction.run = per_lane(copy_out, form);
}

// [to], [from], size, [mbarrier] or [to], [map, {..}], [mbarrier]; then the mask.
void decode_copy_in(Modifiers& modifiers, Instruction& instruction) {
  const bool is_multicast = modifiers.take("multicast::cluster");
  Form form = take_form(modifiers, instruction, 1, 2 + is_multicast);
  form.size = 2;
  form.mbarrier = form.dimensions ? 2 : 3;
  form.multicast = is_multicast;
  const std::string to = modifiers.take_next(), from = modifiers.take_next();
  form.into_own = to == "shared::cta";
  const bool into_shared = to == "shared::cluster" || (form.into_own && !is_multicast);
  if (from == "global" && into_shared)
    instruction.run = per_lane(copy_in, form);
  else if (from == "shared::cta" && to == "shared::cluster" && !form.dimensions && !is_multicast)
    instruction.run = per_lane(copy_across, form);
  else
    fail("does not copy from ." + from + " to ." + to);
}

}  // namespace

bool decode_bulk_copy(Modifiers& modifiers, Instruction& instruction) {
  if (!modifiers.take("bulk")) return false;
  modifiers.take_one({"async"});
  if (modifiers.take("commit_group")) {
    expect_operands(instruction, 0, 0);
    instruction.run = per_lane(commit);
  } else if (modifiers.take("wait_group")) {
    modifiers.take("read");
    expect_operands(instruction, 1, 1);
    instruction.run = per_lane(wait);
  } else if (modifiers.take("prefetch")) {
    decode_prefetch(modifiers, instruction);
  } else if (modifiers.take("bulk_group")) {
    decode_copy_out(modifiers, instruction);
  } else {
    modifiers.take_one({"mbarrier::complete_tx::bytes"});
    decode_copy_in(modifiers, instruction);
  }
  return true;
}

}  // namespace emulator
