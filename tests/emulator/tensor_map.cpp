// Tensor maps: the rules of cuTensorMapEncodeTiled, each with the text that says that it is broken,
// and the walk over a box. What the driver would take but the emulator does not do is refused with
// a text of its own. (CUDA Driver API, cuTensorMapEncodeTiled; PTX ISA, "Tensors".)
#include "tensor_map.h"

#include <algorithm>
#include <cstring>

#include "ptx.h"

namespace emulator {
namespace {

constexpr uint64_t kMagic = 0x70616d20726f736e;
constexpr uint32_t kMostDimensions = 5;

struct DataType {
  const char* name;
  uint32_t bytes;
  bool is_float;
};

// By CUtensorMapDataType.
constexpr DataType kDataTypes[] = {
    {"u8", 1, false},  {"u16", 2, false}, {"u32", 4, false}, {"s32", 4, false}, {"u64", 8, false},
    {"s64", 8, false}, {"f16", 2, true},  {"f32", 4, true},  {"f64", 8, true},  {"bf16", 2, true}};
constexpr uint32_t kKnownDataTypes = sizeof(kDataTypes) / sizeof(DataType);
constexpr uint32_t kLastDataType = 15, kLastInterleave = 2, kLastKnownSwizzle = 3, kLastSwizzle = 6,
                   kLastL2Promotion = 3, kLastOobFill = 1;

std::string not_supported(const std::string& what) {
  return what + " is not supported by the emulator";
}

std::string of_dimension(const std::string& what, uint32_t dimension) {
  return what + " of dimension " + std::to_string(dimension) + " ";
}

std::string broken_enum(uint32_t data_type, uint32_t interleave, uint32_t swizzle,
                        uint32_t l2_promotion, uint32_t oob_fill) {
  if (data_type > kLastDataType) return "the data type is none of CUtensorMapDataType";
  if (interleave > kLastInterleave) return "the interleave is none of CUtensorMapInterleave";
  if (swizzle > kLastSwizzle) return "the swizzle is none of CUtensorMapSwizzle";
  if (l2_promotion > kLastL2Promotion) return "the L2 promotion is none of CUtensorMapL2promotion";
  if (oob_fill > kLastOobFill) return "the fill is none of CUtensorMapFloatOOBfill";
  if (data_type >= kKnownDataTypes) return not_supported("this data type");
  if (interleave) return not_supported("an interleaved layout");
  if (swizzle > kLastKnownSwizzle) return not_supported("this swizzle mode");
  if (oob_fill && !kDataTypes[data_type].is_float)
    return "out of bounds NaN needs a floating-point data type";
  return "";
}

std::string broken_tensor(uint32_t rank, uint64_t address, uint32_t element_bytes,
                          const uint64_t* sizes, const uint64_t* strides) {
  if (rank < 1 || rank > kMostDimensions) return "the rank is not from 1 to 5";
  if (address % 16) return "the global address is not aligned to 16 bytes";
  for (uint32_t i = 0; i < rank; ++i)
    if (sizes[i] < 1 || sizes[i] > 1ull << 32)
      return of_dimension("the size", i) + "is not from 1 to 2^32";
  for (uint32_t i = 1; i < rank; ++i) {
    const uint64_t stride = strides[i - 1], inner = i > 1 ? strides[i - 2] : element_bytes;
    if (stride % 16) return of_dimension("the stride", i) + "is not a multiple of 16 bytes";
    if (stride >= 1ull << 40) return of_dimension("the stride", i) + "is not below 2^40 bytes";
    if (stride / sizes[i - 1] < inner)
      return of_dimension("the stride", i) + "does not cover the dimension before it";
  }
  return "";
}

std::string broken_box(uint32_t rank, uint32_t element_bytes, const uint32_t* box,
                       const uint32_t* element_strides, uint32_t swizzle) {
  for (uint32_t i = 0; i < rank; ++i) {
    if (box[i] < 1 || box[i] > 256) return of_dimension("the box", i) + "is not from 1 to 256";
    if (element_strides[i] < 1 || element_strides[i] > 8)
      return of_dimension("the element stride", i) + "is not from 1 to 8";
  }
  const uint32_t inner = box[0] * element_bytes, span = 16 << swizzle;
  if (inner % 16) return "the box's inner dimension is not a multiple of 16 bytes";
  if (swizzle && inner > span) return "the box's inner dimension is wider than the swizzle";
  if (swizzle && inner < span) return not_supported("an inner dimension narrower than the swizzle");
  return "";
}

// Elements of a box along a dimension. Without interleave, dimension 0 has no element stride.
uint32_t extent(const TensorMap& map, uint32_t dimension) {
  const uint32_t stride = dimension ? map.element_strides[dimension] : 1;
  return (map.box[dimension] + stride - 1) / stride;
}

}  // namespace

std::string encode_tiled(TensorMap& map, uint32_t data_type, uint32_t rank, uint64_t address,
                         const uint64_t* sizes, const uint64_t* strides, const uint32_t* box,
                         const uint32_t* element_strides, uint32_t interleave, uint32_t swizzle,
                         uint32_t l2_promotion, uint32_t oob_fill) {
  std::string broken = broken_enum(data_type, interleave, swizzle, l2_promotion, oob_fill);
  if (!broken.empty()) return broken;
  const uint32_t element_bytes = kDataTypes[data_type].bytes;
  broken = broken_tensor(rank, address, element_bytes, sizes, strides);
  if (broken.empty()) broken = broken_box(rank, element_bytes, box, element_strides, swizzle);
  if (!broken.empty()) return broken;
  map = {};
  map.magic = kMagic;
  map.address = address;
  map.rank = rank;
  map.element_bytes = element_bytes;
  std::copy_n(sizes, rank, map.sizes);
  std::copy_n(strides, rank - 1, map.strides);
  std::copy_n(box, rank, map.box);
  std::copy_n(element_strides, rank, map.element_strides);
  map.data_type = uint8_t(data_type);
  map.swizzle = uint8_t(swizzle);
  map.fill_nan = uint8_t(oob_fill);
  return "";
}

TensorMap decode_tiled(const void* bytes) {
  TensorMap map;
  std::memcpy(&map, bytes, sizeof(map));
  if (map.magic != kMagic) fail("not a tensor map");
  return map;
}

std::string element_type(const TensorMap& map) { return kDataTypes[map.data_type].name; }

uint32_t box_bytes(const TensorMap& map) {
  uint32_t bytes = map.element_bytes;
  for (uint32_t i = 0; i < map.rank; ++i) bytes *= extent(map, i);
  return bytes;
}

std::vector<BoxRow> rows_in_bounds(const TensorMap& map, const int32_t* coordinates) {
  const int64_t first = coordinates[0], length = map.box[0], size = int64_t(map.sizes[0]);
  const int64_t begin = std::clamp<int64_t>(-first, 0, length);
  const int64_t end = std::clamp<int64_t>(size - first, 0, length);
  if (begin >= end) return {};
  const uint32_t row_bytes = map.box[0] * map.element_bytes, count = box_bytes(map) / row_bytes;
  std::vector<BoxRow> rows;
  for (uint32_t row = 0; row < count; ++row) {
    uint64_t global = map.address + (first + begin) * map.element_bytes;
    bool is_inside = true;
    uint32_t rest = row;
    for (uint32_t i = 1; i < map.rank; ++i) {
      const int64_t at = coordinates[i] + int64_t(rest % extent(map, i)) * map.element_strides[i];
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

// Shared memory as rows of 128 bytes: as many low bits of the row's number as the mode has are
// xored into the number of the 16-byte chunk within the row. So it depends on the address alone,
// not on where a box begins, and repeats every 1024 bytes at the latest.
uint32_t swizzled(uint32_t address, int swizzle) {
  const uint32_t chunk_bits = ((1u << swizzle) - 1) << 4;
  return address ^ ((address >> 3) & chunk_bits);
}

}  // namespace emulator
