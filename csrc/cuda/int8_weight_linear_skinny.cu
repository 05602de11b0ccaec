// int8_weight_linear for few rows, bound by memory: w_q is read once, by cp.async, several steps of
// K ahead, to where the lane that asked for it reads it again, so that it waits for nobody; x comes
// from L1, where the warps of a block find it again. A block's warps take turns at the steps of K,
// and their sums are added up in one order, so that y is the same in every run.
//
// Rows of w are the mma's 16, so that 8 rows of x are enough for it. float32 goes to the tensor
// cores as three bfloat16 whose sum it is, but for what is below 2**-133, the least of them. (Sums
// by float32 instructions would need another kernel; so only an operand is another.)
#include "epilogue.cuh"
#include "int8_weight_linear.cuh"
#include "int8_weight_linear_kernels.h"

namespace green_kernels {
namespace {

// What a lane holds of a row of x in a step.
template <typename T>
struct XRow {
  static constexpr int kWords = kLaneK * sizeof(T) / sizeof(uint32_t);
  static constexpr int kParts = std::is_same_v<T, float> ? 3 : 1;
  uint32_t words[kWords] = {};

  // Of the values from `from` on, `left` are in the row, and may be none; zeros past them.
  template <bool kWide>
  static __device__ __forceinline__ XRow load(const T* from, int left) {
    constexpr int kTogether = kChunk / sizeof(T);
    XRow row;
    if constexpr (kWide) {
#pragma unroll
      for (int i = 0; i < kLaneK; i += kTogether)
        if (i < left)
          memcpy(row.words + i * sizeof(T) / sizeof(uint32_t),
                 __builtin_assume_aligned(from + i, kChunk), kChunk);
    } else {
      T values[kLaneK];
#pragma unroll
      for (int i = 0; i < kLaneK; ++i) values[i] = i < left ? from[i] : from_float32<T>(0.0f);
      memcpy(row.words, values, sizeof(values));
    }
    return row;
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

// kWide: rows of x are aligned. `wide`: those of y and residual are.
template <typename T, int kSlices, bool kWide>
__global__ void __launch_bounds__(kSkinnyWarps* kWarpSize, 2)
    int8_weight_linear_skinny_kernel(const __grid_constant__ Int8WeightLinear args, bool wide) {
  using Mma = std::conditional_t<std::is_same_v<T, __half>, __half, __nv_bfloat16>;
  constexpr int kRows = kSlices * kSkinnyRows;
  __shared__ int4 shared[kSkinnyWarps * kSkinnyRing];

  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  int4* const ring = shared + warp * kSkinnyRing;       // the warp's own, later its sums
  const int row_blocks = int(ceil_div(args.M, kRows));  // neighbours share weights in L2
  const int64_t m0 = int64_t(blockIdx.x % row_blocks) * kRows;
  const int64_t n0 = int64_t(blockIdx.x / row_blocks) * kSkinnyColumns;
  const Place held = held_chunk(lane, kWChunks);
  const int k0 = held.column * kChunk;
  const int8_t* const w_q = args.w_q + (n0 + held.row) * args.w_q_stride + k0;
  const T* const x = static_cast<const T*>(args.x) + (m0 + held.row) * args.K + k0;
  const int steps = int(ceil_div(args.K, kStepK));
  const int count = max(steps - warp + kSkinnyWarps - 1, 0) / kSkinnyWarps;  // of the warp's steps

  // The step is the warp's i-th. What follows K in a row may be anything, for x is zero there.
  const int weights_left = int(args.w_q_stride) - k0, x_left = int(args.K) - k0;
  const auto fetch_weights = [&](int i) {
    if (i < count) {
      const int k = (warp + i * kSkinnyWarps) * kStepK;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bool exists = n0 + held.row + half * 8 < args.N && k < weights_left;
        ptx::cp_async_16(ptx::shared_address(ring + ring_chunk(i, half, lane)),
                         w_q + half * 8 * args.w_q_stride + k, exists ? kChunk : 0);
      }
    }
    ptx::cp_async_commit_group();
  };

  const auto load_x = [&](int i, int slice) {
    const int k = (warp + i * kSkinnyWarps) * kStepK, row = slice * kSkinnyRows;
    const bool exists = m0 + held.row + row < args.M;
    return XRow<T>::template load<kWide>(x + row * args.K + k, exists ? x_left - k : 0);
  };

  float sums[kSlices][4] = {};
  const auto multiply = [&](int i) {
    uint32_t a[kStepMmas][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto words = as_bits<Vector<uint32_t, 4>>(ring[ring_chunk(i, half, lane)]).values;
#pragma unroll
      for (int mma = 0; mma < kStepMmas; ++mma)
        widen_int8<Mma>(words[mma_values(mma, 0) / 4], a[mma][half], a[mma][2 + half]);
    }
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      XRow<T> row = load_x(i, slice);
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
        ptx::store_shared_2(ptx::shared_address(ring) + word * 4, sums[slice][reg],
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
      const auto sum_of = [&](int of_warp) {
        return reinterpret_cast<const float*>(
            shared + of_warp * kSkinnyRing)[partial_word(at.row, at.column + i)];
      };
      y[i] = sum_of(0);
#pragma unroll
      for (int other = 1; other < kSkinnyWarps; ++other) y[i] += sum_of(other);
    }
    write_row(args, m0 + at.row, four, y);
  };

#pragma unroll
  for (int i = 0; i < kSkinnyAhead - 1; ++i) fetch_weights(i);
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    ptx::cp_async_wait_group<kSkinnyAhead - 2>();
    fetch_weights(i + kSkinnyAhead - 1);  // where step i - 1 has been
    multiply(i);
  }
  __syncwarp();  // other lanes may have yet to read what sums overwrite
  leave_sums();
  __syncthreads();
  write_result();
}

template <typename T, bool kWide>
cudaError_t launch_for(const Int8WeightLinear& args, const Launch& launch) {
  const auto kernel = args.M <= kSkinnyRows ? int8_weight_linear_skinny_kernel<T, 1, kWide>
                                            : int8_weight_linear_skinny_kernel<T, 2, kWide>;
  return start(kernel, skinny_blocks(args.M, args.N), kSkinnyWarps * kWarpSize, 0, 1, launch, args,
               rows_are_wide(args));
}

template <bool kWide>
cudaError_t launch_wide(const Int8WeightLinear& args, const Launch& launch) {
  const auto launch_it = args.x_dtype == Float::kFloat32   ? launch_for<float, kWide>
                         : args.x_dtype == Float::kFloat16 ? launch_for<__half, kWide>
                                                           : launch_for<__nv_bfloat16, kWide>;
  return launch_it(args, launch);
}

}  // namespace

cudaError_t launch_skinny(const Int8WeightLinear& args, const Launch& launch) {
  return (x_is_wide(args) ? launch_wide<true> : launch_wide<false>)(args, launch);
}

}  // namespace green_kernels
