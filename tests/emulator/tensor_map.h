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

// Reads and checks a map out of 128 bytes that a kernel hands over; fails where it is none.
TensorMap decode(const void* bytes);

uint32_t box_bytes(const TensorMap& map);

// Where the 16-byte chunk at `offset` of a box lies, as its swizzle mode permutes addresses.
// (PTX ISA, "Tensors": swizzling modes.)
uint32_t swizzled(uint32_t address, int swizzle);

}  // namespace emulator
