// Tensor maps, which cuTensorMapEncodeTiled makes and bulk copies use. (CUDA Driver API, "Tensor
// Map Object Management"; PTX ISA, "Tensors".)
#pragma once

#include <cstdint>
#include <string>

namespace emulator {

// What our encoding puts into the 128 bytes of a CUtensorMap.
struct TensorMap {
  uint64_t checksum;  // of what follows
  uint64_t address;
  const char* type;  // as PTX names it: "bf16"
  uint32_t rank, element_bytes;
  uint64_t sizes[5];             // elements, innermost first
  uint64_t strides[4];           // bytes, of dimensions 1 ..
  uint16_t box[5];               // elements
  uint16_t steps[5];             // "element strides"
  uint16_t swizzle, oob_is_nan;  // as the driver's enums number them
};
static_assert(sizeof(TensorMap) == 128);

// Checks what cuTensorMapEncodeTiled is called with, in its order (the enums as the driver numbers
// them), and fills `map`; returns the rule that was broken, or nothing.
std::string encode_tiled(TensorMap& map, uint32_t data_type, uint32_t rank, uint64_t address,
                         const uint64_t* sizes, const uint64_t* strides, const uint32_t* box,
                         const uint32_t* steps, uint32_t interleave, uint32_t swizzle,
                         uint32_t l2_promotion, uint32_t oob_fill);

// Reads a map out of 128 bytes that a kernel hands over; fails where they are none.
TensorMap decode_tiled(const void* bytes);

}  // namespace emulator
