// Loads and stores, and what they cost.
#include "memory.h"

#include <algorithm>
#include <mutex>

namespace emulator {
namespace {

struct Buffer {
  uint64_t address, size;
  bool writable;
};
std::mutex buffers_mutex;
std::vector<Buffer> buffers;  // few, and they may overlap

// Where an address of a space lies among generic ones.
uint64_t generic_address(Space space, uint64_t address) {
  switch (space) {
    case Space::kShared:
      return kSharedWindow + (address & 0xffffffff);
    case Space::kLocal:
      return kLocalWindow + address;
    case Space::kParam:
      return kParamWindow + address;
    default:
      return address;
  }
}

std::string hex(uint64_t value) {
  char text[20];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

void check_alignment(Warp& warp, int lane, uint64_t address, uint32_t alignment) {
  if (address % alignment)
    warp.fail("address " + hex(address) + " is not a multiple of " + std::to_string(alignment),
              lane);
}

const Global* module_variable(const Warp& warp, uint64_t address, uint32_t size) {
  for (const Global& global : warp.block.cluster.machine.launch->program->globals)
    if (address >= global.address && size <= global.size &&
        address - global.address <= global.size - size)
      return &global;
  return nullptr;
}

// A lane's own bytes: its local variables, then the frames of its calls.
uint8_t* own_bytes(Warp& warp, int lane, uint64_t offset, uint32_t size, uint64_t begin,
                   uint64_t length) {
  if (offset > length || size > length - offset)
    warp.fail("offset " + hex(offset) + " is outside the lane's own memory", lane);
  const Program& program = *warp.block.cluster.machine.launch->program;
  return warp.local.data() + uint64_t(lane) * (program.local_bytes + program.frame_bytes) + begin +
         offset;
}

// The bytes of everything but shared memory.
uint8_t* plain_bytes(Warp& warp, Space space, int lane, uint64_t address, uint32_t size,
                     bool writes) {
  const Program& program = *warp.block.cluster.machine.launch->program;
  const uint64_t offset = address & ~kWindowMask;
  switch (address & kWindowMask) {
    case kLocalWindow:
      return own_bytes(warp, lane, offset, size, 0, program.local_bytes);
    case kParamWindow: {
      if (offset >= kFrameOffset)
        return own_bytes(warp, lane, offset - kFrameOffset, size, program.local_bytes,
                         program.frame_bytes);
      const std::vector<uint8_t>& parameters = warp.block.cluster.machine.launch->parameters;
      if (writes) warp.fail("writes a parameter of the kernel", lane);
      if (offset > parameters.size() || size > parameters.size() - offset)
        warp.fail("offset " + hex(offset) + " is outside the kernel's parameters", lane);
      return const_cast<uint8_t*>(parameters.data()) + offset;
    }
    case 0:
      break;
    default:
      warp.fail("address " + hex(address) + " is in no state space", lane);
  }
  if (const Global* const global = module_variable(warp, address, size)) {
    if (writes && !global->writable) warp.fail("writes to constant memory", lane);
  } else if (space == Space::kConst) {
    warp.fail("address " + hex(address) + " is outside constant memory", lane);
  } else if (!is_registered(reinterpret_cast<void*>(address), size, writes)) {
    const bool readable = is_registered(reinterpret_cast<void*>(address), size, false);
    warp.fail(
        "global address " + hex(address) + ", " + std::to_string(size) + " bytes, is " +
            (writes && readable ? "in a buffer that may only be read" : "outside all buffers"),
        lane);
  }
  order_access(warp, lane, address, size, writes);
  return reinterpret_cast<uint8_t*>(address);
}

bool is_shared(uint64_t address) { return (address & kWindowMask) == kSharedWindow; }

}  // namespace

Access access_of(const Warp& warp, int lane, bool asynchronous) {
  return {warp.now(lane), lane, warp.instruction->at.line, &warp.clock, &warp.fenced, asynchronous};
}

SharedPlace shared_place(Warp& warp, int lane, uint64_t address, uint32_t size,
                         uint32_t alignment) {
  const uint32_t number = uint32_t(address >> kRankShift) & 0xff;  // 0 for the block's own
  const uint32_t offset = address & ((1u << kRankShift) - 1);
  check_alignment(warp, lane, offset, alignment);
  Cluster& cluster = warp.block.cluster;
  if (number > cluster.blocks.size())
    warp.fail("shared address " + hex(address) + " names block " + std::to_string(number - 1) +
                  " of a cluster of " + std::to_string(cluster.blocks.size()),
              lane);
  Block& block = number ? *cluster.blocks[number - 1] : warp.block;
  if (block.exited == block.warps.size())
    warp.fail("shared address " + hex(address) + " is of a block that has ended", lane);
  if (offset < kSharedBase || offset > block.shared.size() || size > block.shared.size() - offset)
    warp.fail("shared address " + hex(address) + ", " + std::to_string(size) +
                  " bytes, is outside the block's " +
                  std::to_string(block.shared.size() - kSharedBase) + " bytes from " +
                  hex(kSharedBase) + " on",
              lane);
  return {&block, offset};
}

void visit(Warp& warp, int lane, SharedPlace place) {
  const Epoch now = warp.now(lane);
  if (place.block != &warp.block)
    place.block->visits[now.actor] = {now.time, warp.instruction->at.line};
}

void load(Warp& warp, Space space, int lane, uint64_t address, void* to, uint32_t size,
          uint32_t alignment) {
  address = generic_address(space, address);
  if (!is_shared(address)) {
    check_alignment(warp, lane, address, alignment);
    std::memcpy(to, plain_bytes(warp, space, lane, address, size, false), size);
    return;
  }
  const SharedPlace place = shared_place(warp, lane, address, size, alignment);
  visit(warp, lane, place);
  SharedMemory& shared = place.block->shared;
  const Access access = access_of(warp, lane);
  if (const std::string wrong = shared.check_read(access, place.offset, size); !wrong.empty())
    warp.fail(wrong, lane);
  shared.record_read(access, place.offset, size);
  std::memcpy(to, shared.data() + place.offset, size);
}

void store(Warp& warp, Space space, int lane, uint64_t address, const void* from, uint32_t size,
           uint32_t alignment) {
  address = generic_address(space, address);
  if (!is_shared(address)) {
    check_alignment(warp, lane, address, alignment);
    std::memcpy(plain_bytes(warp, space, lane, address, size, true), from, size);
    return;
  }
  const SharedPlace place = shared_place(warp, lane, address, size, alignment);
  visit(warp, lane, place);
  SharedMemory& shared = place.block->shared;
  const Access access = access_of(warp, lane);
  if (const std::string wrong = shared.check_write(access, place.offset, size, from);
      !wrong.empty())
    warp.fail(wrong, lane);
  shared.record_write(access, place.offset, size, from);
  std::memcpy(shared.data() + place.offset, from, size);
}

void update(Warp& warp, Space space, int lane, uint64_t address, uint32_t size,
            const std::function<void(void*)>& change) {
  address = generic_address(space, address);
  if (!is_shared(address)) {
    check_alignment(warp, lane, address, size);
    change(plain_bytes(warp, space, lane, address, size, true));
    return;
  }
  const SharedPlace place = shared_place(warp, lane, address, size, size);
  visit(warp, lane, place);
  SharedMemory& shared = place.block->shared;
  Access access = access_of(warp, lane);
  access.atomic = true;
  std::string wrong = shared.check_read(access, place.offset, size);
  if (wrong.empty()) wrong = shared.check_write(access, place.offset, size, nullptr);
  if (!wrong.empty()) warp.fail(wrong, lane);
  shared.record_write(access, place.offset, size, nullptr);
  change(shared.data() + place.offset);
}

uint8_t* global_pointer(Warp& warp, int lane, uint64_t address, uint32_t size, uint32_t alignment,
                        bool writes) {
  if (is_shared(address)) warp.fail("address " + hex(address) + " is not in global memory", lane);
  check_alignment(warp, lane, address, alignment);
  return plain_bytes(warp, Space::kGlobal, lane, address, size, writes);
}

// Lanes that together move 128 bytes go through the banks at once.
void count_shared(Warp& warp, const uint64_t* addresses, uint32_t mask, uint32_t size) {
  constexpr int kBanks = 32, kWord = 4, kAtOnce = kBanks * kWord;
  const int together = std::min<int>(kLanes, kAtOnce / std::max<int>(size, kWord));
  Traffic& traffic = warp.block.cluster.machine.traffic_of(warp, false);
  ++traffic.requests;
  traffic.bytes += uint64_t(size) * __builtin_popcount(mask);
  for (int first = 0; first < kLanes; first += together) {
    std::array<std::array<uint64_t, kLanes>, kBanks> words;
    std::array<int, kBanks> count{};
    int most = 0;
    for (int lane = first; lane < first + together; ++lane) {
      if (!(mask >> lane & 1)) continue;
      for (uint64_t i = 0; i * kWord < addresses[lane] % kWord + size; ++i) {
        const uint64_t word = addresses[lane] / kWord + i;
        auto& of_bank = words[word % kBanks];
        int& known = count[word % kBanks];
        if (std::find(of_bank.begin(), of_bank.begin() + known, word) == of_bank.begin() + known &&
            known < kLanes)
          of_bank[known++] = word;
        most = std::max(most, known);
      }
    }
    traffic.wavefronts += most;
    traffic.least += most > 0;
  }
}

void count_global(Warp& warp, const uint64_t* addresses, uint32_t mask, uint32_t size) {
  constexpr uint64_t kSector = 32;
  Traffic& traffic = warp.block.cluster.machine.traffic_of(warp, true);
  ++traffic.requests;
  traffic.bytes += uint64_t(size) * __builtin_popcount(mask);
  std::vector<uint64_t> sectors;
  for_lanes(mask, [&](int lane) {
    for (uint64_t i = 0; i * kSector < addresses[lane] % kSector + size; ++i)
      sectors.push_back(addresses[lane] / kSector + i);
  });
  std::sort(sectors.begin(), sectors.end());
  traffic.sectors += std::unique(sectors.begin(), sectors.end()) - sectors.begin();
}

void register_buffer(const void* data, uint64_t size, bool writable) {
  const std::lock_guard<std::mutex> lock(buffers_mutex);
  buffers.push_back({reinterpret_cast<uint64_t>(data), size, writable});
}

void unregister_buffer(const void* data) {
  const std::lock_guard<std::mutex> lock(buffers_mutex);
  const auto latest = std::find_if(buffers.rbegin(), buffers.rend(), [&](const Buffer& buffer) {
    return buffer.address == reinterpret_cast<uint64_t>(data);
  });
  if (latest != buffers.rend()) buffers.erase(std::next(latest).base());
}

bool is_registered(const void* data, uint64_t size, bool writes) {
  const uint64_t address = reinterpret_cast<uint64_t>(data);
  const std::lock_guard<std::mutex> lock(buffers_mutex);
  return std::any_of(buffers.begin(), buffers.end(), [&](const Buffer& buffer) {
    return address >= buffer.address && size <= buffer.size &&
           address - buffer.address <= buffer.size - size && (buffer.writable || !writes);
  });
}

}  // namespace emulator
