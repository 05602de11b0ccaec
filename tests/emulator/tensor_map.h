// Tensor maps: cuTensorMapEncodeTiled with its rules, and where each element of a box lies. (CUDA
// Driver API, "Tensor Map Object Management"; PTX ISA, "Tensors".)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

// What our encoding puts into the 128 bytes of a CUtensorMap.
struct TensorMap {
  uint64_t magic;
  uint64_t address;
  uint32_t rank, element_bytes;
  uint64_t sizes[5];    // elements, innermost first
  uint64_t strides[4];  // bytes, of dimensions 1 ..
  uint16_t box[5];      // elements
  uint8_t element_strides[5];
  uint8_t data_type, swizzle, fill_nan;  // as the driver's enums number them
};
static_assert(sizeof(TensorMap) <= 128);

// Checks what cuTensorMapEncodeTiled is called with, in its order (the enums as the driver numbers
// them), and fills `map`; returns the rule that was broken, or nothing.
std::string encode_tiled(TensorMap& map, uint32_t data_type, uint32_t rank, uint64_t address,
                         const uint64_t* sizes, const uint64_t* strides, const uint32_t* box,
                         const uint32_t* element_strides, uint32_t interleave, uint32_t swizzle,
                         uint32_t l2_promotion, uint32_t oob_fill);

// Reads and checks a map out of 128 bytes that a kernel hands over; fails where it is none.
TensorMap decode_tiled(const void* bytes);

std::string element_type(const TensorMap& map);  // as PTX names it: "bf16"

uint32_t box_bytes(const TensorMap& map);  // in shared memory, whatever is out of bounds

// The part of a box's row that lies within the tensor.
struct BoxRow {
  uint8_t* global;
  uint32_t offset, size;  // bytes, within the box as it was without swizzling
};

// All such parts of the box that starts at these coordinates, of which there are map.rank.
std::vector<BoxRow> rows_in_bounds(const TensorMap& map, const int32_t* coordinates);

// Where a byte that would lie at `address` of shared memory does lie in this swizzle mode. (PTX
// ISA, "Swizzling Modes".)
uint32_t swizzled(uint32_t address, int swizzle);

}  // namespace emulator
