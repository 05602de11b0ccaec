// ld, st, atom, red, and what turns one address into another. (PTX ISA, "Data Movement and
// Conversion Instructions"; "Parallel Synchronization and Communication Instructions": atom, red.)
#include <algorithm>

#include "alu.h"
#include "memory.h"

namespace emulator {
namespace {

// Takes `.shared`, `.shared::cta` and so on; without any, the address is generic.
Space take_space(Modifiers& modifiers) {
  static const std::map<std::string, Space> spaces = {
      {"global", Space::kGlobal},      {"shared", Space::kShared},
      {"shared::cta", Space::kShared}, {"shared::cluster", Space::kShared},
      {"local", Space::kLocal},        {"param", Space::kParam},
      {"param::entry", Space::kParam}, {"param::func", Space::kParam},
      {"const", Space::kConst}};
  for (const auto& [name, space] : spaces)
    if (modifiers.take(name)) return space;
  return Space::kGeneric;
}

// What orders or caches an access: the emulator's memory is always in order and has no caches.
void take_hints(Modifiers& modifiers) {
  modifiers.take_any(
      "weak volatile relaxed acquire release acq_rel mmio cta cluster gpu sys ca cg cs lu cv nc wb "
      "wt unified L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last "
      "L1::no_allocate L2::evict_last L2::evict_normal L2::evict_first L2::cache_hint L2::64B "
      "L2::128B L2::256B");
}

bool is_signed(const std::string& type) { return type[0] == 's'; }

bool is_global(Space space, uint64_t address) {
  return space == Space::kGlobal || (space == Space::kGeneric && (address & kWindowMask) == 0);
}

struct Addresses {
  std::array<uint64_t, kLanes> of;

  Addresses(Warp& warp, Space space, const Operand& operand) {
    const bool narrow = space == Space::kShared;  // shared addresses have 32 bits
    for_lanes(warp.active, [&](int lane) {
      const uint64_t address = address_of(warp, operand, lane);
      of[lane] = narrow ? uint32_t(address) : address;
    });
  }

  void count(Warp& warp, Space space, uint32_t size) const {
    const uint64_t window = of[first_lane(warp.active)] & kWindowMask;
    if (space == Space::kShared || (space == Space::kGeneric && window == kSharedWindow))
      count_shared(warp, of.data(), warp.active, size);
    else if (is_global(space, of[first_lane(warp.active)]))
      count_global(warp, of.data(), warp.active, size);
  }
};

int take_vector(Modifiers& modifiers) {
  return modifiers.take("v2") ? 2 : modifiers.take("v4") ? 4 : modifiers.take("v8") ? 8 : 1;
}

const Operand& element(const Operand& vector, int i, int count) {
  if (count == 1 && vector.kind != Operand::Kind::kVector) return vector;
  if (vector.kind != Operand::Kind::kVector || vector.parts.size() != size_t(count))
    fail("needs a vector of " + std::to_string(count));
  return vector.parts[i];
}

void decode_load(Modifiers& modifiers, Instruction& instruction) {
  const Space space = take_space(modifiers);
  take_hints(modifiers);
  const int count = take_vector(modifiers);
  const std::string type = modifiers.take_type();
  const uint32_t size = bytes_of(type);
  if (size > 8 || type == "pred") fail("loads no ." + type);
  expect_operands(instruction, 2, 3);
  element(instruction.operands[0], 0, count);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    const Addresses addresses(warp, space, at.operands[1]);
    addresses.count(warp, space, size * count);
    for_lanes(warp.active, [&](int lane) {
      std::array<uint8_t, 64> bytes;
      load(warp, space, lane, addresses.of[lane], bytes.data(), size * count, size * count);
      for (int i = 0; i < count; ++i) {
        const Operand& to = element(at.operands[0], i, count);
        if (to.kind == Operand::Kind::kSink) continue;
        uint64_t value = 0;
        std::memcpy(&value, bytes.data() + i * size, size);
        if (is_signed(type) && size < 8)  // registers may be wider than what is loaded
          value = uint64_t(int64_t(value << (64 - 8 * size)) >> (64 - 8 * size));
        warp.lanes(to)[lane] = value;
      }
    });
  };
}

void decode_store(Modifiers& modifiers, Instruction& instruction) {
  const Space space = take_space(modifiers);
  take_hints(modifiers);
  const int count = take_vector(modifiers);
  const std::string type = modifiers.take_type();
  const uint32_t size = bytes_of(type);
  if (size > 8 || type == "pred") fail("stores no ." + type);
  expect_operands(instruction, 2, 3);
  element(instruction.operands[1], 0, count);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    const Addresses addresses(warp, space, at.operands[0]);
    addresses.count(warp, space, size * count);
    for_lanes(warp.active, [&](int lane) {
      std::array<uint8_t, 64> bytes;
      for (int i = 0; i < count; ++i)
        std::memcpy(bytes.data() + i * size, &warp.lanes(element(at.operands[1], i, count))[lane],
                    size);
      store(warp, space, lane, addresses.of[lane], bytes.data(), size * count, size * count);
    });
  };
}

// What an atomic operation leaves in memory, given what is there and its operands b and c.
using Update = std::function<uint64_t(uint64_t old, uint64_t b, uint64_t c)>;

template <typename T>
Update update_of(const std::string& operation) {
  const auto on = [](auto f) -> Update {
    return [f](uint64_t old, uint64_t b, uint64_t) { return bits_of<T>(f(as<T>(old), as<T>(b))); };
  };
  if (operation == "add") {
    if constexpr (std::is_integral_v<T>)
      return on(
          [](T old, T b) { return T(std::make_unsigned_t<T>(old) + std::make_unsigned_t<T>(b)); });
    else
      return on([](T old, T b) { return old + b; });
  }
  if (operation == "min") return on([](T old, T b) { return std::min(old, b); });
  if (operation == "max") return on([](T old, T b) { return std::max(old, b); });
  if (operation == "exch") return on([](T, T b) { return b; });
  if (operation == "cas")
    return [](uint64_t old, uint64_t b, uint64_t c) { return as<T>(old) == as<T>(b) ? c : old; };
  if constexpr (std::is_integral_v<T>) {
    if (operation == "and") return on([](T old, T b) { return T(old & b); });
    if (operation == "or") return on([](T old, T b) { return T(old | b); });
    if (operation == "xor") return on([](T old, T b) { return T(old ^ b); });
    if (operation == "inc") return on([](T old, T b) { return old >= b ? T(0) : T(old + 1); });
    if (operation == "dec")
      return on([](T old, T b) { return old == 0 || old > b ? b : T(old - 1); });
  }
  fail("does not know ." + operation + " for this type");
}

Update update_of(const std::string& operation, const std::string& type) {
  const bool is_float = type[0] == 'f' || type == "bf16";
  if (is_float && operation != "add" && operation != "exch") fail("is not for ." + type);
  if (type == "u32" || type == "b32") return update_of<uint32_t>(operation);
  if (type == "s32") return update_of<int32_t>(operation);
  if (type == "u64" || type == "b64") return update_of<uint64_t>(operation);
  if (type == "s64") return update_of<int64_t>(operation);
  if (type == "b16") return update_of<uint16_t>(operation);
  if (type == "f32") return update_of<float>(operation);
  if (type == "f64") return update_of<double>(operation);
  fail("is not for ." + type);
}

// atom returns what was there before; red is the same without.
void decode_atomic(Modifiers& modifiers, Instruction& instruction) {
  const bool returns = modifiers.base() == "atom";
  const Space space = take_space(modifiers);
  take_hints(modifiers);
  const std::string operation =
      modifiers.take_one({"add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec"});
  const std::string type = modifiers.take_type();
  const Update update = update_of(operation, type);
  // "atom.add.f32 on global memory flushes subnormal inputs and results to sign-preserving zero;
  // whereas atom.add.f32 on shared memory supports [them]." Likewise red.
  const bool flushes = operation == "add" && type == "f32";
  const Update flushing = [](uint64_t old, uint64_t b, uint64_t) {
    return bits_of(flush(flush(as<float>(old)) + flush(as<float>(b))));
  };
  const uint32_t size = bytes_of(type);
  const size_t first = returns, sources = operation == "cas" ? 2 : 1;
  expect_operands(instruction, first + 1 + sources, first + 1 + sources);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    const Addresses addresses(warp, space, at.operands[first]);
    addresses.count(warp, space, size);
    // Lanes come one by one, in an order that nobody promised.
    std::array<int, kLanes> order;
    for (int lane = 0; lane < kLanes; ++lane) order[lane] = lane;
    std::shuffle(order.begin(), order.end(), warp.block.cluster.machine.dice);
    for (const int lane : order) {
      if (!(warp.active >> lane & 1)) continue;
      const uint64_t b = warp.lanes(at.operands[first + 1])[lane];
      const uint64_t c = sources == 2 ? warp.lanes(at.operands[first + 2])[lane] : 0;
      uint64_t old = 0;
      emulator::update(warp, space, lane, addresses.of[lane], size, [&](void* bytes) {
        std::memcpy(&old, bytes, size);
        const bool flushed = flushes && is_global(space, addresses.of[lane]);
        const uint64_t next = flushed ? flushing(old, b, c) : update(old, b, c);
        std::memcpy(bytes, &next, size);
      });
      if (returns && at.operands[0].kind != Operand::Kind::kSink)
        warp.lanes(at.operands[0])[lane] = old;
    }
  };
}

uint64_t window_of(Space space) {
  switch (space) {
    case Space::kShared:
      return kSharedWindow;
    case Space::kLocal:
      return kLocalWindow;
    case Space::kParam:
      return kParamWindow;
    default:
      return 0;
  }
}

void decode_cvta(Modifiers& modifiers, Instruction& instruction) {
  const bool to_space = modifiers.take("to");
  const Space space = take_space(modifiers);
  modifiers.take_one({"u64", "u32"});
  expect_operands(instruction, 2, 2);
  const uint64_t window = window_of(space);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    uint64_t* const to = warp.lanes(at.operands[0]);
    const uint64_t* const from = warp.lanes(at.operands[1]);
    for_lanes(warp.active, [&](int lane) {
      if (to_space && (from[lane] & kWindowMask) != window)
        warp.fail("the address is not in that state space", lane);
      to[lane] = to_space ? from[lane] - window : from[lane] + window + at.operands[1].offset;
    });
  };
}

void decode_isspacep(Modifiers& modifiers, Instruction& instruction) {
  const uint64_t window = window_of(take_space(modifiers));
  expect_operands(instruction, 2, 2);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    uint64_t* const to = warp.lanes(at.operands[0]);
    const uint64_t* const from = warp.lanes(at.operands[1]);
    for_lanes(warp.active, [&](int lane) { to[lane] = (from[lane] & kWindowMask) == window; });
  };
}

// The address of the same variable in another block of the cluster.
void decode_mapa(Modifiers& modifiers, Instruction& instruction) {
  take_space(modifiers);
  const uint64_t keep = modifiers.take_one({"u32", "u64"}) == "u32" ? 0xffffff : ~0xff000000ull;
  expect_operands(instruction, 3, 3);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    const uint64_t* const from = warp.lanes(at.operands[1]);
    const uint64_t* const rank = warp.lanes(at.operands[2]);
    uint64_t* const to = warp.lanes(at.operands[0]);
    for_lanes(warp.active, [&](int lane) {
      if (uint32_t(rank[lane]) >= warp.block.cluster.blocks.size())
        warp.fail("the cluster has no block " + std::to_string(uint32_t(rank[lane])), lane);
      to[lane] = ((from[lane] + at.operands[1].offset) & keep) | uint64_t(uint32_t(rank[lane]) + 1)
                                                                     << kRankShift;
    });
  };
}

void decode_getctarank(Modifiers& modifiers, Instruction& instruction) {
  take_space(modifiers);
  modifiers.take_one({"u32", "u64"});
  expect_operands(instruction, 2, 2);
  instruction.run = [](Warp& warp, const Instruction& at) {
    const uint64_t* const from = warp.lanes(at.operands[1]);
    uint64_t* const to = warp.lanes(at.operands[0]);
    for_lanes(warp.active, [&](int lane) {
      const uint32_t number = uint32_t(from[lane] >> kRankShift) & 0xff;
      to[lane] = number ? number - 1 : warp.block.rank;
    });
  };
}

// Prefetches and cache policies change nothing that the emulator has.
void decode_hint(Modifiers& modifiers, Instruction& instruction) {
  take_space(modifiers);
  take_hints(modifiers);
  modifiers.take_any(
      "L1 L2 tensormap fractional range L2::evict_last L2::evict_first L2::evict_unchanged "
      "L2::evict_normal b64");
  const bool makes_policy = modifiers.base() == "createpolicy";
  instruction.run = [=](Warp& warp, const Instruction& at) {
    if (makes_policy)
      for_lanes(warp.active, [&](int lane) { warp.lanes(at.operands[0])[lane] = 0; });
  };
}

}  // namespace

void add_memory_decoders(Decoders& decoders) {
  decoders["ld"] = decoders["ldu"] = decode_load;
  decoders["st"] = decode_store;
  decoders["atom"] = decoders["red"] = decode_atomic;
  decoders["cvta"] = decode_cvta;
  decoders["isspacep"] = decode_isspacep;
  decoders["mapa"] = decode_mapa;
  decoders["getctarank"] = decode_getctarank;
  decoders["prefetch"] = decoders["prefetchu"] = decoders["createpolicy"] = decode_hint;
}

}  // namespace emulator
