// int8_weight_linear for few rows, bound by memory: w_q is read once, straight into registers, 16
// bytes a lane and several such reads under way; x comes from L1, where the warps of a block find
// it again. A block's warps take turns at the steps of K, and their sums are added up in one order,
// so that y is the same in every run.
//
// Rows of w are the mma's 16, so that 8 rows of x are enough for it. float32 goes to the tensor
// cores as three bfloat16 whose sum it is. (Products by float32 instructions would be as exact, but
// need another kernel; this one has only another operand.)
#include "epilogue.cuh"
#include "int8_weight_linear.cuh"
#include "int8_weight_linear_kernels.h"

namespace green_kernels {
namespace {

constexpr int kAhead = 4;  // steps of a warp whose weights are under way: 4 KB

// What a lane holds of a row of x in a step.
template <typename T>
struct XRow {
  static constexpr int kWords = kLaneK * sizeof(T) / sizeof(uint32_t);
  static constexpr int kParts = std::is_same_v<T, float> ? 3 : 1;
  uint32_t words[kWords] = {};

  // Of the values from `from` on, `left` are in the row, and may be none; zeros past them.
  __device__ __forceinline__ XRow(const T* from, int64_t left, bool wide) {
    constexpr int kTogether = kChunk / sizeof(T);
    if (wide) {
#pragma unroll
      for (int i = 0; i < kLaneK; i += kTogether)
        if (i < left)
          memcpy(words + i * sizeof(T) / sizeof(uint32_t),
                 __builtin_assume_aligned(from + i, kChunk), kChunk);
    } else {
      T values[kLaneK];
#pragma unroll
      for (int i = 0; i < kLaneK; ++i) values[i] = i < left ? from[i] : from_float32<T>(0.0f);
      memcpy(words, values, sizeof(words));
    }
  }

  // What is left of the four values of an mma, as registers of its B; takes away their leading bits
  // of float32. Infinity is its own leading bits; NaN may leave NaN.
  __device__ __forceinline__ void take(int mma, uint32_t (&b)[2]) {
    if constexpr (kParts == 1) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) b[pair] = words[mma_values(mma, pair) / 2];
    } else {
      uint32_t* const four = words + mma_values(mma, 0);
      b[0] = __byte_perm(four[0], four[1], 0x7632);
      b[1] = __byte_perm(four[2], four[3], 0x7632);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float value = __uint_as_float(four[i]);
        const float rest = __fsub_rn(value, __uint_as_float(four[i] & 0xffff0000));
        four[i] = isinf(value) ? 0 : __float_as_uint(rest);
      }
    }
  }
};

template <typename T, int kSlices>
__global__ void __launch_bounds__(kSkinnyWarps* kWarpSize, 2)
    int8_weight_linear_skinny_kernel(const __grid_constant__ Int8WeightLinear args, bool x_wide,
                                     bool wide) {  // rows of x, and of y and residual, are aligned
  using Mma = std::conditional_t<std::is_same_v<T, __half>, __half, __nv_bfloat16>;
  constexpr int kRows = kSlices * kSkinnyRows, kWords = kSlices * kPartialWords;
  __shared__ float partial[kSkinnyWarps * kWords];

  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int row_blocks = int(ceil_div(args.M, kRows));  // neighbours share weights in L2
  const int64_t m0 = int64_t(blockIdx.x % row_blocks) * kRows;
  const int64_t n0 = int64_t(blockIdx.x / row_blocks) * kSkinnyColumns;
  const Place held = held_chunk(lane, kWChunks);
  const int k0 = held.column * kChunk;
  const int8_t* const w_q = args.w_q + (n0 + held.row) * args.w_q_stride + k0;
  const T* const x = static_cast<const T*>(args.x) + (m0 + held.row) * args.K + k0;
  const int steps = int(ceil_div(args.K, kStepK));

  // Row i * 8 + held.row of 16. What follows K in a row may be anything, for x is zero there.
  const auto load_weights = [&](int step, int i) {
    const int64_t k = int64_t(step) * kStepK;
    const bool exists = n0 + held.row + i * 8 < args.N && k0 + k < args.w_q_stride;
    return exists ? ptx::load_once(w_q + i * 8 * args.w_q_stride + k) : uint4{};
  };

  const auto load_x = [&](int step, int slice) {
    const int64_t k = int64_t(step) * kStepK, row = slice * kSkinnyRows;
    return XRow<T>(x + row * args.K + k, m0 + held.row + row < args.M ? args.K - k0 - k : 0,
                   x_wide);
  };

  float sums[kSlices][4] = {};
  const auto multiply = [&](int step, const uint4(&weights)[2]) {
    uint32_t a[kStepMmas][4];
#pragma unroll
    for (int mma = 0; mma < kStepMmas; ++mma)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto words = as_bits<Vector<uint32_t, 4>>(weights[half]).values;
        widen_int8<Mma>(words[mma_values(mma, 0) / 4], a[mma][half], a[mma][2 + half]);
      }
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      XRow<T> row = load_x(step, slice);
#pragma unroll
      for (int mma = 0; mma < kStepMmas; ++mma)
#pragma unroll
        for (int part = 0; part < XRow<T>::kParts; ++part) {
          uint32_t b[2];
          row.take(mma, b);
          multiply_add<Mma>(sums[slice], a[mma], b);
        }
    }
  };

  const auto leave_sums = [&] {
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice)
#pragma unroll
      for (int reg = 0; reg < 4; reg += 2) {
        const Place at = mma_c(lane, reg);  // its rows are those of w
        const int word = partial_word(slice * kSkinnyRows + at.column, at.row);
        ptx::store_shared_2(ptx::shared_address(partial + warp * kWords + word), sums[slice][reg],
                            sums[slice][reg + 1]);
      }
  };

  const auto write_result = [&] {
    const Place at = skinny_written(threadIdx.x);
    if (at.row >= kRows || m0 + at.row >= args.M || n0 + at.column >= args.N) return;
    const Columns four(args, n0 + at.column, wide);
    float y[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const sum_of = partial + partial_word(at.row, at.column + i);
      y[i] = sum_of[0];
#pragma unroll
      for (int other = 1; other < kSkinnyWarps; ++other) y[i] += sum_of[other * kWords];
    }
    write_row(args, m0 + at.row, four, y);
  };

  uint4 ahead[kAhead][2];
#pragma unroll
  for (int i = 0; i < kAhead; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      ahead[i][half] = load_weights(warp + i * kSkinnyWarps, half);
#pragma unroll 1
  for (int first = warp; first < steps; first += kAhead * kSkinnyWarps) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {  // past the last step all is zero, and adds nothing
      const int step = first + i * kSkinnyWarps;
      multiply(step, ahead[i]);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        ahead[i][half] = load_weights(step + kAhead * kSkinnyWarps, half);
    }
  }
  leave_sums();
  __syncthreads();
  write_result();
}

template <typename T>
cudaError_t launch_for(const Int8WeightLinear& args, const Launch& launch) {
  const bool is_one = args.M <= kSkinnyRows;
  const auto kernel =
      is_one ? int8_weight_linear_skinny_kernel<T, 1> : int8_weight_linear_skinny_kernel<T, 2>;
  const int64_t blocks = skinny_blocks(args.M, args.N);
  return start(kernel, blocks, kSkinnyWarps * kWarpSize, 0, 1, launch, args, x_is_wide(args),
               rows_are_wide(args));
}

}  // namespace

cudaError_t launch_skinny(const Int8WeightLinear& args, const Launch& launch) {
  const auto launch_it = args.x_dtype == Float::kFloat32   ? launch_for<float>
                         : args.x_dtype == Float::kFloat16 ? launch_for<__half>
                                                           : launch_for<__nv_bfloat16>;
  return launch_it(args, launch);
}

}  // namespace green_kernels
