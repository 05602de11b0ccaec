// Rows of floats times columns of int8.  A few columns are widened into the L1 cache, for all rows
// to find them there: memory is read once, one byte for a weight, and of few rows that is most of
// the time there is.
#include "dot_columns.h"

#include <algorithm>
#include <cstring>
#include <numeric>

// A sum may be fused with the product before it: these sums have no one order, and so no one value.
// (The build forbids it for the sake of all others.)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#endif

namespace green_kernels {
namespace {

constexpr int kColumns = 8;  // widened together
constexpr int kDepth = 512;  // of them: 16 KB, beside as much of rows

// What multiplies: how many floats a register holds, how many registers are for sums, which is less
// than there are, and how many values of x and of w are multiplied at a time.
template <int kLanes, int kSums>
struct Float32 {
  using Value = float;
  typedef float Floats __attribute__((vector_size(4 * kLanes)));
  typedef Floats Values;
  typedef int32_t Places __attribute__((vector_size(4 * kLanes)));
  static constexpr int lanes = kLanes, sums = kSums, values = kLanes;
  static constexpr bool widens_in_registers = kLanes > 4;

  HOST_DEVICE static float from_int8(int8_t w) { return w; }
  HOST_DEVICE static void add(Floats& sum, const Values& x, const Values& w) { sum += x * w; }
};

// Columns of w, a cache line further apart than they are deep, lest they fall into a few sets.
template <typename Unit>
using Tile = typename Unit::Value[kDepth + kCacheLine / sizeof(typename Unit::Value)];

// to[i] = the sum of x[i], for four vectors at once: they change places within quarters of a
// register, so that three additions are left to do for all.
template <typename Unit>
HOST_DEVICE void totals(const typename Unit::Floats* x, float* to) {
  constexpr int lanes = Unit::lanes;
#if defined(__GNUC__) && !defined(__clang__)
  typename Unit::Places low, high, even, odd;
  for (int i = 0; i < lanes; ++i) {
    const int quarter = i / 4 * 4, place = i % 4;
    low[i] = quarter + place / 2 + place % 2 * lanes;
    high[i] = low[i] + 2;
    even[i] = quarter + place % 2 + place / 2 * lanes;
    odd[i] = even[i] + 2;
  }
  const auto a = __builtin_shuffle(x[0], x[1], low) + __builtin_shuffle(x[0], x[1], high);
  const auto b = __builtin_shuffle(x[2], x[3], low) + __builtin_shuffle(x[2], x[3], high);
  const auto sums = __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
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

// The first `depth` values of `columns` columns; from there to the end of the cache line, zeros.
// What will be wanted next is on its way meanwhile.  (Where that lies past the end of w_q, nothing
// is read: it is a hint.)
template <typename Unit>
HOST_DEVICE void widen(const int8_t* w_q, const int8_t* next, int64_t K, int columns, int depth,
                       Tile<Unit>* to) {
  constexpr int line = kCacheLine / sizeof(typename Unit::Value);
  for (int c = 0; c < columns; ++c) {
    for (int k = 0; k < kDepth; k += kCacheLine) __builtin_prefetch(next + c * K + k);
    for (int k = 0; k < depth; ++k) to[c][k] = Unit::from_int8(w_q[c * K + k]);
    for (int k = depth; k % line; ++k) to[c][k] = 0;
  }
}

// acc += R rows of x times C columns, all sums in registers.
template <typename Unit, int R, int C>
HOST_DEVICE void add_block(const typename Unit::Value* x, int64_t x_stride, const Tile<Unit>* w,
                           int depth, float* acc, int64_t N) {
  typename Unit::Floats sums[round_up(R * C, 4)] = {};
  typename Unit::Values rows[R], column;
  for (int k = 0; k < depth; k += Unit::values) {
#pragma GCC unroll 8  // all of each loop, or sums and rows would lie in memory
    for (int r = 0; r < R; ++r) std::memcpy(&rows[r], x + r * x_stride + k, sizeof column);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      std::memcpy(&column, w[c] + k, sizeof column);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) Unit::add(sums[r * C + c], rows[r], column);
    }
  }
  float found[round_up(R * C, 4)];
#pragma GCC unroll 4
  for (int i = 0; i < R * C; i += 4) totals<Unit>(sums + i, found + i);
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r * N + c] += found[r * C + c];
}

// acc += rows m to M of x, R at a time, times the columns; returns the first row that is left.
template <typename Unit, int R>
HOST_DEVICE int64_t add_rows(int64_t m, const typename Unit::Value* x, int64_t x_stride, int64_t M,
                             const Tile<Unit>* w, int columns, int depth, float* acc, int64_t N) {
  constexpr int C = std::min(kColumns, Unit::sums / R);
  for (; m + R <= M; m += R) {
    const auto* row = x + m * x_stride;
    float* to = acc + m * N;
    int c = 0;
    for (; c + C <= columns; c += C) add_block<Unit, R, C>(row, x_stride, w + c, depth, to + c, N);
    for (; c < columns; ++c) add_block<Unit, R, 1>(row, x_stride, w + c, depth, to + c, N);
  }
  return m;
}

// sum += x times as many int8, widened by AVX2's or AVX-512's instruction: GCC would do it one by
// one.
template <typename Unit>
HOST_DEVICE void add_int8(typename Unit::Floats& sum, const typename Unit::Floats& x,
                          const int8_t* w) {
  typename Unit::Places column;
  asm("vpmovsxbd %1, %0" : "=v"(column) : "m"(*reinterpret_cast<const int8_t (*)[Unit::lanes]>(w)));
  sum += x * __builtin_convertvector(column, typename Unit::Floats);
}

// One row times C columns, which nobody would find in the L1 cache again.
template <typename Unit, int C>
HOST_DEVICE void dot_row(const float* x, const int8_t* w_q, int64_t K, float* acc) {
  constexpr int lanes = Unit::lanes;
  typename Unit::Floats sums[C][2] = {}, row;  // additions that do not wait for each other
  int64_t k = 0;
  for (; k + 2 * lanes <= K; k += 2 * lanes) {
    // What will be wanted next.  (A hint: past the end of w_q, nothing is read.)
    for (int c = 0; c < C; ++c) __builtin_prefetch(w_q + (c + C) * K + k);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      std::memcpy(&row, x + k + half * lanes, sizeof row);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        add_int8<Unit>(sums[c][half], row, w_q + c * K + k + half * lanes);
    }
  }
  for (int c = 0; c < C; ++c) {
    float at[lanes];
    const auto both = sums[c][0] + sums[c][1];
    std::memcpy(at, &both, sizeof at);
    acc[c] = std::accumulate(at, at + lanes, 0.0f);
    for (int64_t rest = k; rest < K; ++rest) acc[c] += x[rest] * w_q[c * K + rest];
  }
}

template <typename Unit>
HOST_DEVICE void dot(const void* x, int64_t x_stride, int64_t M, const int8_t* w_q, int64_t N,
                     int64_t K, float* acc) {
  if constexpr (Unit::widens_in_registers) {
    if (M == 1) {
      const auto* row = static_cast<const float*>(x);
      int64_t n = 0;
      for (; n + 4 <= N; n += 4) dot_row<Unit, 4>(row, w_q + n * K, K, acc + n);
      for (; n < N; ++n) dot_row<Unit, 1>(row, w_q + n * K, K, acc + n);
      return;
    }
  }
  x_stride /= sizeof(typename Unit::Value);
  alignas(kCacheLine) Tile<Unit> w[kColumns];
  std::fill_n(acc, M * N, 0.0f);
  for (int64_t n = 0; n < N; n += kColumns)
    for (int64_t k = 0; k < K; k += kDepth) {
      const int columns = int(std::min<int64_t>(kColumns, N - n));
      const int depth = int(std::min<int64_t>(kDepth, K - k));
      const int8_t* tile = w_q + n * K + k;
      const int8_t* next = k + kDepth < K ? tile + kDepth : w_q + (n + kColumns) * K;
      widen<Unit>(tile, next, K, columns, depth, w);
      const auto* rows = static_cast<const typename Unit::Value*>(x) + k;
      float* to = acc + n;
      int64_t m = add_rows<Unit, 4>(0, rows, x_stride, M, w, columns, depth, to, N);
      m = add_rows<Unit, 2>(m, rows, x_stride, M, w, columns, depth, to, N);
      add_rows<Unit, 1>(m, rows, x_stride, M, w, columns, depth, to, N);
    }
}

using Dot = void(const void*, int64_t, int64_t, const int8_t*, int64_t, int64_t, float*);

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Two products at a time for each float, by AVX-512's own instruction; in assembler, as a function
// for a narrower instruction set may not be compiled with its intrinsic.
struct BFloat16 {
  using Value = uint16_t;
  using Floats = Float32<16, 16>::Floats;
  using Places = Float32<16, 16>::Places;
  using Values = Floats;
  static constexpr int lanes = 16, sums = 16, values = 32;
  static constexpr bool widens_in_registers = false;

  HOST_DEVICE static uint16_t from_int8(int8_t w) {
    const float exact = w;
    uint32_t bits;
    std::memcpy(&bits, &exact, sizeof bits);
    return uint16_t(bits >> 16);
  }
  HOST_DEVICE static void add(Floats& sum, const Values& x, const Values& w) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  }
};

#define GREEN_KERNELS_DOT(name, isa, Unit)                                                      \
  __attribute__((target(isa))) void name(const void* x, int64_t x_stride, int64_t M,            \
                                         const int8_t* w_q, int64_t N, int64_t K, float* acc) { \
    dot<Unit>(x, x_stride, M, w_q, N, K, acc);                                                  \
  }
using Avx512 = Float32<16, 16>;
using Avx2 = Float32<8, 8>;
GREEN_KERNELS_DOT(dot_bfloat16, "arch=x86-64-v4", BFloat16)
GREEN_KERNELS_DOT(dot_v4, "arch=x86-64-v4", Avx512)
GREEN_KERNELS_DOT(dot_v3, "arch=x86-64-v3", Avx2)

Dot* best() {
  if (__builtin_cpu_supports("x86-64-v4")) return dot_v4;
  if (__builtin_cpu_supports("x86-64-v3")) return dot_v3;
  return dot<Float32<4, 8>>;
}
Dot* best_of_bfloat16() {
  return __builtin_cpu_supports("avx512bf16") && best() == dot_v4 ? dot_bfloat16 : nullptr;
}
#else
Dot* best() { return dot<Float32<4, 8>>; }
Dot* best_of_bfloat16() { return nullptr; }
#endif

}  // namespace

Float dot_dtype(Float dtype, int64_t M) {
  static const bool multiplies_bfloat16 = best_of_bfloat16() != nullptr;
  return dtype == Float::kBFloat16 && multiplies_bfloat16 && M > 1 ? dtype : Float::kFloat32;
}

void dot_columns(const void* x, Float dtype, int64_t M, const int8_t* w_q, int64_t N, int64_t K,
                 float* acc) {
  static Dot* const by_dtype[] = {best(), best_of_bfloat16()};
  by_dtype[dtype == Float::kBFloat16](x, row_stride(dtype, K), M, w_q, N, K, acc);
}

}  // namespace green_kernels
