// Bulk copies, plain and of tensors: cp.async.bulk, cp.reduce.async.bulk. An opcode becomes a Form;
// what an instruction copies, one piece or the rows of a tensor's box, a Box. A copy into shared
// memory completes transactions of an mbarrier when it takes effect; one out of it belongs to its
// lane's bulk group (async_copy.cpp). Left out: prefetches, the reductions .inc, .dec, .and, .or
// and .xor, and .min and .max of floating-point types. (PTX ISA, "Data Movement and Conversion
// Instructions: Bulk copy" and ".. Tensor copy".)
#include <algorithm>
#include <array>
#include <cstring>
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

// An opcode, decoded. Operands: [to], [from], size, [mbarrier], mask; of a tensor there is no size,
// and the place in global memory is [map, {..}]; what goes to global memory has no mbarrier.
struct Form {
  int dimensions = 0;      // of a tensor; 0 where the copy is of one piece
  bool stores = false;     // into global memory
  bool across = false;     // from the block's shared memory to another's
  bool multicast = false;  // to the same place in several blocks
  std::string reduction;   // "add"; or empty
  std::string type;        // of a reduction of one piece

  size_t global() const { return stores ? 0 : 1; }
  size_t mbarrier() const { return dimensions ? 2 : 3; }
  uint32_t alignment() const { return dimensions ? kTensorAlignment : kChunk; }  // when shared
};

// The part of a box's row that lies within the tensor, or a piece of memory.
struct Row {
  uint8_t* at;
  uint32_t offset, size;  // bytes, within the box as it was without swizzling
};

// What is copied, and how it lies in shared memory.
struct Box {
  std::vector<Row> rows;
  uint32_t bytes = 0;  // in shared memory, whatever is out of bounds
  int swizzle = 0;
  bool oob_is_nan = false;
  std::string type;
};

// Of the sums that of .f32 flushes subnormals, of its inputs too.
template <typename T>
T reduced(const std::string& reduction, T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    if (reduction == "add") return T(wrapping(a) + wrapping(b));
    return reduction == "min" ? std::min(a, b) : std::max(a, b);
  }
  if (reduction != "add") fail("floating-point types have no ." + reduction);
  if constexpr (std::is_same_v<T, float>) return flush(narrow<T>(flush(a) + flush(b)));
  if constexpr (std::is_same_v<T, double>) return a + b;
  if constexpr (std::is_class_v<T>) return narrow<T>(add_to_odd(widen(a), widen(b)));
}

void reduce(const Form& form, const std::string& type, uint8_t* to, const uint8_t* from,
            uint32_t size) {
  using All = Types<uint32_t, int32_t, uint64_t, int64_t, float, double, F16, BF16>;
  with_type(All(), type, [&](auto value) {
    for (uint32_t at = 0; at < size; at += sizeof value) {
      auto old = value;
      std::memcpy(&old, to + at, sizeof value);
      std::memcpy(&value, from + at, sizeof value);
      value = reduced(form.reduction, old, value);
      std::memcpy(to + at, &value, sizeof value);
    }
  });
}

SharedPlace place_of(Warp& warp, const Operand& operand, int lane, uint32_t size,
                     uint32_t alignment) {
  return shared_place(warp, lane, uint32_t(address_of(warp, operand, lane)), size, alignment);
}

// Of the second operand, in .shared::cta.
SharedPlace source_of(Warp& warp, const Instruction& at, const Form& form, int lane,
                      uint32_t size) {
  const SharedPlace place = place_of(warp, at.operands[1], lane, size, form.alignment());
  if (place.block != &warp.block) warp.fail("a .shared::cta address is of another block", lane);
  return place;
}

Box piece(Warp& warp, const Instruction& at, const Form& form, int lane) {
  Box box;
  box.type = form.type;
  box.bytes = uint32_t(warp.lanes(at.operands[2])[lane]);
  if (box.bytes % kChunk)
    warp.fail("the size, " + std::to_string(box.bytes) + ", is not a multiple of 16 bytes", lane);
  if (form.across) {
    const SharedPlace from = source_of(warp, at, form, lane, box.bytes);
    box.rows = {{from.block->shared.data() + from.offset, 0, box.bytes}};
  } else {
    const uint64_t global = address_of(warp, at.operands[form.global()], lane);
    box.rows = {{global_pointer(warp, lane, global, box.bytes, kChunk, form.stores), 0, box.bytes}};
  }
  return box;
}

// Elements of a box along a dimension. Without interleave, dimension 0 has no element stride.
uint32_t extent(const TensorMap& map, uint32_t dimension) {
  const uint32_t step = dimension ? map.steps[dimension] : 1;
  return (map.box[dimension] + step - 1) / step;
}

// The rows of the box at these coordinates, as far as they are in bounds.
std::vector<Row> rows_of(const TensorMap& map, const std::array<int32_t, 5>& coordinates,
                         uint32_t bytes) {
  const int64_t first = coordinates[0], length = map.box[0], size = int64_t(map.sizes[0]);
  const int64_t begin = std::clamp<int64_t>(-first, 0, length);
  const int64_t end = std::clamp<int64_t>(size - first, begin, length);
  const uint32_t row_bytes = map.box[0] * map.element_bytes;
  std::vector<Row> rows;
  for (uint32_t row = 0; row < bytes / row_bytes; ++row) {
    uint64_t global = map.address + (first + begin) * map.element_bytes;
    bool is_inside = begin < end;
    uint32_t rest = row;
    for (uint32_t i = 1; i < map.rank; ++i) {
      const int64_t at = coordinates[i] + int64_t(rest % extent(map, i)) * map.steps[i];
      rest /= extent(map, i);
      is_inside = is_inside && at >= 0 && at < int64_t(map.sizes[i]);
      global += uint64_t(at) * map.strides[i - 1];
    }
    if (is_inside)
      rows.push_back({reinterpret_cast<uint8_t*>(global),
                      uint32_t(row * row_bytes + begin * map.element_bytes),
                      uint32_t((end - begin) * map.element_bytes)});
  }
  return rows;
}

Box box_of_tensor(Warp& warp, const Instruction& at, const Form& form, int lane) {
  const Operand& operand = at.operands[form.global()];
  const TensorMap map = decode_tiled(global_pointer(warp, lane, address_of(warp, operand, lane),
                                                    kMapBytes, kMapAlignment, /*writes=*/false));
  if (int(map.rank) != form.dimensions)
    warp.fail("the tensor map is of rank " + std::to_string(map.rank), lane);
  Box box;
  box.bytes = map.element_bytes;
  std::array<int32_t, 5> coordinates{};
  for (int i = 0; i < form.dimensions; ++i) {
    box.bytes *= extent(map, i);
    coordinates[i] = int32_t(warp.lanes(operand.parts[0].parts[i])[lane]);
    // "Restriction on Tensor Copy instructions", of the .global.shared::cta direction.
    if (form.stores && coordinates[i] < 0) warp.fail("a store's coordinate is negative", lane);
  }
  box.rows = rows_of(map, coordinates, box.bytes);
  for (const Row& row : box.rows)
    global_pointer(warp, lane, reinterpret_cast<uint64_t>(row.at), row.size, /*alignment=*/1,
                   form.stores);
  box.swizzle = map.swizzle;
  box.oob_is_nan = map.oob_is_nan;
  box.type = map.type;
  return box;
}

Box box_of(Warp& warp, const Instruction& at, const Form& form, int lane) {
  return (form.dimensions ? box_of_tensor : piece)(warp, at, form, lane);
}

// Where a byte that would lie at `address` of shared memory does lie. Shared memory as rows of 128
// bytes: as many low bits of the row's number as the mode has are xored into the number of the
// 16-byte chunk within the row. So it depends on the address alone, not on where a box begins, and
// repeats every 1024 bytes at the latest. (PTX ISA, "Swizzling Modes".)
uint32_t swizzled(uint32_t address, int mode) {
  const uint32_t chunk_bits = ((1u << mode) - 1) << 4;
  return address ^ ((address >> 3) & chunk_bits);
}

// Calls f(offset, bytes, size) for all that is in bounds of a box at `offset` of shared memory, in
// pieces that swizzling leaves whole.
template <typename F>
void for_pieces(const Box& box, uint32_t offset, F f) {
  for (const Row& row : box.rows)
    for (uint32_t at = 0, size; at < row.size; at += size) {
      const uint32_t begin = offset + row.offset + at;
      size = std::min(row.size - at, kChunk - begin % kChunk);
      f(swizzled(begin, box.swizzle), row.at + at, size);
    }
}

void read_box(const Box& box, SharedPlace place) {
  uint8_t* const shared = place.block->shared.data();
  // The NaN that fma.oob knows, 0x7fff, whatever the type.
  for (uint32_t i = 0; i < box.bytes; ++i)
    shared[place.offset + i] = !box.oob_is_nan ? 0 : i % 2 ? 0x7f : 0xff;
  for_pieces(box, place.offset, [&](uint32_t offset, const uint8_t* from, uint32_t size) {
    std::memcpy(shared + offset, from, size);
  });
}

void write_box(const Form& form, const Box& box, SharedPlace place) {
  const uint8_t* const shared = place.block->shared.data();
  for_pieces(box, place.offset, [&](uint32_t offset, uint8_t* to, uint32_t size) {
    if (form.reduction.empty())
      std::memcpy(to, shared + offset, size);
    else
      reduce(form, box.type, to, shared + offset, size);
  });
}

void complete(AsyncOperation& operation, SharedPlace place) {
  const auto found = place.block->mbarriers.find(place.offset);
  if (found == place.block->mbarriers.end())
    fail("the mbarrier of the " + operation.name + " of PTX line " +
         std::to_string(operation.line) + " was gone when the copy completed");
  finish(operation, completion_epoch(found->second), kWholeWarp, /*generic=*/false);
  complete_transactions(found->second, operation.writes.front().size, operation.line);
}

// Into shared memory.
void copy_in(Warp& warp, const Instruction& at, const Form& form, int lane) {
  const Box box = box_of(warp, at, form, lane);
  const Operand& counter = at.operands[form.mbarrier()];
  const SharedPlace to = place_of(warp, at.operands[0], lane, box.bytes, form.alignment());
  const SharedPlace mbarrier = place_of(warp, counter, lane, kMbarrierBytes, kMbarrierBytes);
  if (mbarrier.block != to.block)
    warp.fail("the mbarrier is not in the block that the copy goes to", lane);
  if (form.across && to.block == &warp.block)
    warp.fail("the destination is not in another block", lane);
  uint32_t mask = 1u << to.block->rank;
  if (form.multicast) mask = uint16_t(warp.lanes(at.operands[form.mbarrier() + 1])[lane]);
  const auto& blocks = warp.block.cluster.blocks;
  if (mask >> blocks.size()) warp.fail("the mask names blocks that the cluster lacks", lane);
  // Each destination is an operation of its own, as what orders it is its own mbarrier.
  for_lanes(mask, [&](int rank) {
    const SharedPlace target{blocks[rank].get(), to.offset};
    const SharedPlace counted{blocks[rank].get(), mbarrier.offset};
    // Where there is but one block, Triton's kernels have no such fence, and work.
    if (const Mbarrier& used = mbarrier_at(warp, lane, counted);
        blocks.size() > 1 && !used.fenced_init)
      warp.fail("counts at the mbarrier that PTX line " + std::to_string(used.init_line) +
                    " initialises, with no fence.mbarrier_init between them",
                lane);
    AsyncOperation operation;
    operation.name = kName;
    if (form.across) operation.reads = {{source_of(warp, at, form, lane, box.bytes), box.bytes}};
    operation.writes = {{target, box.bytes}};
    operation.effect = [=](AsyncOperation& self) {
      read_box(box, target);
      complete(self, counted);
    };
    start(warp, std::move(operation), /*asynchronous=*/true, lane);
  });
}

// From shared to global memory.
void copy_out(Warp& warp, const Instruction& at, const Form& form, int lane) {
  const Box box = box_of(warp, at, form, lane);
  const SharedPlace from = source_of(warp, at, form, lane, box.bytes);
  AsyncOperation operation;
  operation.name = kName;
  // What is out of bounds is not read: a kernel need not have written that.
  for_pieces(box, from.offset, [&](uint32_t offset, const uint8_t*, uint32_t size) {
    operation.reads.push_back({{from.block, offset}, size});
  });
  operation.effect = [=](AsyncOperation&) { write_box(form, box, from); };
  warp.bulk_copies[lane].open.push_back(
      start(warp, std::move(operation), /*asynchronous=*/true, lane));
}

}  // namespace

void decode_bulk_copy(Modifiers& modifiers, Instruction& instruction) {
  Form form;
  form.stores = modifiers.take("bulk_group");
  if (!form.stores) modifiers.take_one({"mbarrier::complete_tx::bytes"});
  if (modifiers.take("tensor")) {
    modifiers.take("tile");
    form.dimensions = modifiers.take_one({"1d", "2d", "3d", "4d", "5d"})[0] - '0';
  }
  form.multicast = modifiers.take("multicast::cluster");
  if (form.stores && modifiers.take("reduce")) {
    form.reduction = modifiers.take_one({"add", "min", "max"});
    if (!form.dimensions) form.type = modifiers.take_type();
    modifiers.take("noftz");
  }
  const std::string to = modifiers.take_next(), from = modifiers.take_next();
  form.across = !form.stores && from == "shared::cta";
  if ((to == "global") != form.stores || (form.multicast && form.stores) ||
      from != (form.stores || form.across ? "shared::cta" : "global") ||
      (form.across && (form.dimensions || form.multicast)))
    fail("does not copy so from ." + from + " to ." + to);
  const size_t count =
      2 + !form.dimensions + !form.stores + form.multicast + modifiers.take("L2::cache_hint");
  expect_operands(instruction, count, count);
  const std::vector<Operand>& parts = instruction.operands[form.global()].parts;
  if (form.dimensions && (parts.size() != 1 || parts[0].parts.size() != size_t(form.dimensions)))
    fail("needs [map, {..}] with " + std::to_string(form.dimensions) + " coordinates");
  instruction.run = [form](Warp& warp, const Instruction& at) {
    for_lanes(warp.active,
              [&](int lane) { (form.stores ? copy_out : copy_in)(warp, at, form, lane); });
  };
}

}  // namespace emulator
