// The rules of cuTensorMapEncodeTiled, each with the text that says that it is broken. What the
// driver would take but the emulator does not do is refused with a text of its own. (CUDA Driver
// API, cuTensorMapEncodeTiled.)
#include "tensor_map.h"

#include <algorithm>
#include <cstring>

#include "ptx.h"

namespace emulator {
namespace {

struct DataType {
  const char* name;
  uint32_t bytes;
};

// By CUtensorMapDataType.
constexpr DataType kDataTypes[] = {{"u8", 1},  {"u16", 2}, {"u32", 4}, {"s32", 4}, {"u64", 8},
                                   {"s64", 8}, {"f16", 2}, {"f32", 4}, {"f64", 8}, {"bf16", 2}};
constexpr uint32_t kKnownDataTypes = sizeof(kDataTypes) / sizeof(DataType), kFirstFloat = 6;

void require(bool holds, const std::string& rule) {
  if (!holds) fail(rule);
}

void support(bool holds, const std::string& what) {
  require(holds, what + " is not supported by the emulator");
}

void check_tensor(const TensorMap& map) {
  require(map.address % 16 == 0, "the global address is not aligned to 16 bytes");
  for (uint32_t i = 0; i < map.rank; ++i)
    require(map.sizes[i] >= 1 && map.sizes[i] <= 1ull << 32,
            "the size of dimension " + std::to_string(i) + " is not from 1 to 2^32");
  for (uint32_t i = 1; i < map.rank; ++i) {
    const uint64_t stride = map.strides[i - 1];
    const uint64_t inner = i > 1 ? map.strides[i - 2] : map.element_bytes;
    const std::string name = "the stride of dimension " + std::to_string(i);
    require(stride % 16 == 0, name + " is not a multiple of 16 bytes");
    require(stride < 1ull << 40, name + " is not below 2^40 bytes");
    require(stride / map.sizes[i - 1] >= inner, name + " does not cover the dimension before it");
  }
}

void check_box(const TensorMap& map, const uint32_t* box, const uint32_t* steps) {
  for (uint32_t i = 0; i < map.rank; ++i) {
    const std::string dimension = " of dimension " + std::to_string(i);
    require(box[i] >= 1 && box[i] <= 256, "the box" + dimension + " is not from 1 to 256");
    require(steps[i] >= 1 && steps[i] <= 8,
            "the element stride" + dimension + " is not from 1 to 8");
  }
  const uint32_t inner = box[0] * map.element_bytes, span = 16 << map.swizzle;
  require(inner % 16 == 0, "the box's inner dimension is not a multiple of 16 bytes");
  require(!map.swizzle || inner <= span, "the box's inner dimension is wider than the swizzle");
  support(!map.swizzle || inner == span, "an inner dimension narrower than the swizzle");
}

uint64_t checksum(const TensorMap& map) {
  uint64_t words[sizeof(map) / 8], sum = 0;
  std::memcpy(words, &map, sizeof(map));
  for (size_t i = 1; i < std::size(words); ++i) sum = (sum ^ words[i]) * 0x9e3779b97f4a7c15 + i;
  return sum;
}

}  // namespace

std::string encode_tiled(TensorMap& map, uint32_t data_type, uint32_t rank, uint64_t address,
                         const uint64_t* sizes, const uint64_t* strides, const uint32_t* box,
                         const uint32_t* steps, uint32_t interleave, uint32_t swizzle,
                         uint32_t l2_promotion, uint32_t oob_fill) {
  try {
    require(data_type <= 15, "the data type is none of CUtensorMapDataType");
    require(interleave <= 2, "the interleave is none of CUtensorMapInterleave");
    require(swizzle <= 6, "the swizzle is none of CUtensorMapSwizzle");
    require(l2_promotion <= 3, "the L2 promotion is none of CUtensorMapL2promotion");
    require(oob_fill <= 1, "the fill is none of CUtensorMapFloatOOBfill");
    support(data_type < kKnownDataTypes, "this data type");
    support(!interleave, "an interleaved layout");
    support(swizzle <= 3, "this swizzle mode");
    require(!oob_fill || data_type >= kFirstFloat,
            "out of bounds NaN needs a floating-point data type");
    require(rank >= 1 && rank <= 5, "the rank is not from 1 to 5");
    const DataType& type = kDataTypes[data_type];
    map = {0,  address,           type.name,         rank, type.bytes, {}, {}, {},
           {}, uint16_t(swizzle), uint16_t(oob_fill)};
    std::copy_n(sizes, rank, map.sizes);
    std::copy_n(strides, rank - 1, map.strides);
    check_tensor(map);
    check_box(map, box, steps);
    std::copy_n(box, rank, map.box);
    std::copy_n(steps, rank, map.steps);
    map.checksum = checksum(map);
    return "";
  } catch (const Error& broken) {
    return broken.what();
  }
}

TensorMap decode_tiled(const void* bytes) {
  TensorMap map;
  std::memcpy(&map, bytes, sizeof(map));
  if (map.checksum != checksum(map)) fail("not a tensor map");
  return map;
}

}  // namespace emulator
