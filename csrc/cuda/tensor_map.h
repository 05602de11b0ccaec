// Tensor maps: how TMA copies boxes of a matrix between global and shared memory.
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "stages_sm90a.h"

namespace green_kernels {

// A matrix of `rows` rows of `columns` elements, `stride` bytes apart, copied in boxes of
// `box_rows` times `box_columns`. The pointer and the stride are multiples of 16 bytes.
struct Matrix {
  CUtensorMapDataType type;
  const void* data;
  int64_t rows, columns, stride;
  int box_rows, box_columns;
  CUtensorMapSwizzle swizzle;
};

// Finds cuTensorMapEncodeTiled, a function of the driver, with no need to link with that.
inline cudaError_t find_encoder(PFN_cuTensorMapEncodeTiled_v12000& encode) {
  static PFN_cuTensorMapEncodeTiled_v12000 known = nullptr;
  if (!known) {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                               12000, cudaEnableDefault, &found);
    if (error != cudaSuccess) return error;
    if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
    known = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }
  encode = known;
  return cudaSuccess;
}

inline cudaError_t encode(const Matrix& matrix, CUtensorMap& map) {
  PFN_cuTensorMapEncodeTiled_v12000 encode_tiled = nullptr;
  const cudaError_t error = find_encoder(encode_tiled);
  if (error != cudaSuccess) return error;
  const cuuint64_t sizes[] = {cuuint64_t(matrix.columns), cuuint64_t(matrix.rows)};
  const cuuint64_t strides[] = {cuuint64_t(matrix.stride)};
  const cuuint32_t box[] = {cuuint32_t(matrix.box_columns), cuuint32_t(matrix.box_rows)};
  const cuuint32_t element_strides[] = {1, 1};
  const CUresult done =
      encode_tiled(&map, matrix.type, 2, const_cast<void*>(matrix.data), sizes, strides, box,
                   element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, matrix.swizzle,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return done == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// A map of `rows` rows of K int8 values, in boxes that are one stage's part of `box_rows` of them.
// Of K = 0 there is nothing to copy, and no map.
inline cudaError_t encode_stages(const int8_t* q, int64_t rows, int64_t K, int64_t stride,
                                 int box_rows, CUtensorMap& map) {
  if (K == 0) return cudaSuccess;
  return encode({CU_TENSOR_MAP_DATA_TYPE_UINT8, q, rows, K, stride, box_rows, kStageK,
                 CU_TENSOR_MAP_SWIZZLE_128B},
                map);
}

}  // namespace green_kernels
