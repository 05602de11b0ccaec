// Rows of floats times columns of int8.  A few columns are widened into the L1 cache, for all rows
// to find them there: memory is read once, one byte for a weight, and of few rows that is most of
// the time there is.
#include "dot_columns.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "../types.h"

// A sum may be fused with the product before it: these sums have no one order, and so no one value.
// (The build forbids it for the sake of all others.)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#endif

namespace green_kernels {
namespace {

constexpr int kColumns = 8;              // widened together
constexpr int kDepth = 1 << 9;           // of them: 16 KB, beside as much of rows
constexpr int kCacheLine = 64;           // bytes
constexpr int kPitch = kDepth + kLanes;  // lest they all fall into a few sets of the cache

template <int lanes>
struct Vector {
  typedef float Floats __attribute__((vector_size(4 * lanes)));
  typedef int32_t Places __attribute__((vector_size(4 * lanes)));
};

// to[i] = the sum of x[i], for four vectors at once: they change places within quarters of a
// register, so that three additions are left to do for all.
template <int lanes>
HOST_DEVICE void totals(const typename Vector<lanes>::Floats* x, float* to) {
#if defined(__GNUC__) && !defined(__clang__)
  using Floats = typename Vector<lanes>::Floats;
  typename Vector<lanes>::Places low, high, even, odd;
  for (int i = 0; i < lanes; ++i) {
    const int quarter = i / 4 * 4, place = i % 4;
    low[i] = quarter + place / 2 + place % 2 * lanes;
    high[i] = low[i] + 2;
    even[i] = quarter + place % 2 + place / 2 * lanes;
    odd[i] = even[i] + 2;
  }
  const Floats a = __builtin_shuffle(x[0], x[1], low) + __builtin_shuffle(x[0], x[1], high);
  const Floats b = __builtin_shuffle(x[2], x[3], low) + __builtin_shuffle(x[2], x[3], high);
  const Floats sums = __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
  float at[lanes];
  std::memcpy(at, &sums, sizeof at);
  for (int half = lanes / 2; half >= 4; half /= 2)
    for (int i = 0; i < half; ++i) at[i] += at[i + half];
  std::memcpy(to, at, 4 * sizeof(float));
#else
  for (int i = 0; i < 4; ++i) {
    float at[lanes];
    std::memcpy(at, x + i, sizeof at);
    to[i] = std::accumulate(at, at + lanes, 0.0f);
  }
#endif
}

// The first `depth` values of `columns` columns, as floats; from there to the next multiple of
// kLanes, zeros.  What will be wanted next is on its way meanwhile.  (Where that lies past the end
// of w_q, nothing is read: it is a hint.)
HOST_DEVICE void widen(const int8_t* w_q, const int8_t* next, int64_t K, int columns, int depth,
                       float (*to)[kPitch]) {
  for (int c = 0; c < columns; ++c) {
    for (int k = 0; k < kDepth; k += kCacheLine) __builtin_prefetch(next + c * K + k);
    for (int k = 0; k < depth; ++k) to[c][k] = w_q[c * K + k];
    for (int k = depth; k % kLanes; ++k) to[c][k] = 0;
  }
}

// acc += R rows of x times C columns, all sums in registers.
template <int lanes, int R, int C>
HOST_DEVICE void add_block(const float* x, int64_t x_stride, const float (*w)[kPitch], int depth,
                           float* acc, int64_t N) {
  using Floats = typename Vector<lanes>::Floats;
  Floats sums[round_up(R * C, 4)] = {}, rows[R], column;
  for (int k = 0; k < depth; k += lanes) {
#pragma GCC unroll 8  // all of each loop, or sums and rows would lie in memory
    for (int r = 0; r < R; ++r) std::memcpy(&rows[r], x + r * x_stride + k, sizeof column);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      std::memcpy(&column, w[c] + k, sizeof column);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[r * C + c] += rows[r] * column;
    }
  }
  float found[round_up(R * C, 4)];
#pragma GCC unroll 4
  for (int i = 0; i < R * C; i += 4) totals<lanes>(sums + i, found + i);
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r * N + c] += found[r * C + c];
}

// acc += rows m to M of x, R at a time, times the columns; returns the first row that is left.
template <int lanes, int sums, int R>
HOST_DEVICE int64_t add_rows(int64_t m, const float* x, int64_t x_stride, int64_t M,
                             const float (*w)[kPitch], int columns, int depth, float* acc,
                             int64_t N) {
  constexpr int C = std::min(kColumns, sums / R);
  for (; m + R <= M; m += R) {
    const float* row = x + m * x_stride;
    float* to = acc + m * N;
    int c = 0;
    for (; c + C <= columns; c += C) add_block<lanes, R, C>(row, x_stride, w + c, depth, to + c, N);
    for (; c < columns; ++c) add_block<lanes, R, 1>(row, x_stride, w + c, depth, to + c, N);
  }
  return m;
}

// lanes: floats in a register;  sums: registers for them, which is less than there are
template <int lanes, int sums>
HOST_DEVICE void dot(const float* x, int64_t M, const int8_t* w_q, int64_t N, int64_t K,
                     float* acc) {
  const int64_t x_stride = row_stride(K);
  alignas(64) float w[kColumns][kPitch];
  std::fill_n(acc, M * N, 0.0f);
  for (int64_t n = 0; n < N; n += kColumns)
    for (int64_t k = 0; k < K; k += kDepth) {
      const int columns = int(std::min<int64_t>(kColumns, N - n));
      const int depth = int(std::min<int64_t>(kDepth, K - k));
      const int8_t* tile = w_q + n * K + k;
      const int8_t* next = k + kDepth < K ? tile + kDepth : w_q + (n + kColumns) * K;
      widen(tile, next, K, columns, depth, w);
      float* to = acc + n;
      int64_t m = add_rows<lanes, sums, 4>(0, x + k, x_stride, M, w, columns, depth, to, N);
      m = add_rows<lanes, sums, 2>(m, x + k, x_stride, M, w, columns, depth, to, N);
      add_rows<lanes, sums, 1>(m, x + k, x_stride, M, w, columns, depth, to, N);
    }
}

using Dot = void(const float*, int64_t, const int8_t*, int64_t, int64_t, float*);

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target("arch=x86-64-v4"))) void dot_v4(const float* x, int64_t M, const int8_t* w_q,
                                                      int64_t N, int64_t K, float* acc) {
  dot<16, 16>(x, M, w_q, N, K, acc);
}

__attribute__((target("arch=x86-64-v3"))) void dot_v3(const float* x, int64_t M, const int8_t* w_q,
                                                      int64_t N, int64_t K, float* acc) {
  dot<8, 8>(x, M, w_q, N, K, acc);
}

Dot* best() {
  if (__builtin_cpu_supports("x86-64-v4")) return dot_v4;
  if (__builtin_cpu_supports("x86-64-v3")) return dot_v3;
  return dot<4, 8>;
}
#else
Dot* best() { return dot<4, 8>; }
#endif

}  // namespace

void dot_columns(const float* x, int64_t M, const int8_t* w_q, int64_t N, int64_t K, float* acc) {
  static Dot* const dot = best();
  dot(x, M, w_q, N, K, acc);
}

}  // namespace green_kernels
