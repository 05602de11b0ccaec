// int8_weight_linear, CPU.  The threads share blocks of y; of each, a thread copies the rows of x,
// multiplies them by the columns of w_q and finishes the sums while they are in its cache.
#include <algorithm>
#include <cstring>

#include "../common.h"
#include "dot_columns.h"
#include "epilogue.h"
#include "rows.h"

namespace green_kernels {
namespace {

constexpr int64_t kRows = 64;             // of a block: what of them is in use fits an L2 cache
constexpr int64_t kXBytes = 4 << 20;      // of a block's rows: where they are long, it has fewer
constexpr int64_t kColumns = 512;         // of a block: with 64 rows, sums of 128 KB
constexpr int64_t kLittleWork = 1 << 18;  // products: less is not worth a thread's while

// The size of the parts of n where they are equal, of `most` or less, and as few as that allows; a
// multiple of `step`, so that all but the last fill registers.
int64_t part(int64_t n, int64_t most, int64_t step) {
  return round_up(ceil_div(n, ceil_div(n, most)), step);
}

// Rows of x as dot_columns wants them.
class Rows {
 public:
  Rows(Float x_dtype, int64_t most, int64_t K)
      : x_dtype_(x_dtype),
        dtype_(dot_dtype(x_dtype, most)),
        K_(K),
        memory_(most * row_stride(dtype_, K) + kCacheLine) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    data_ = memory_.data() + (round_up(address, kCacheLine) - address);
  }

  // Takes this many rows from x on.
  void fill(const void* x, int64_t rows) {
    const int64_t bytes = K_ * green_kernels::bytes(x_dtype_), stride = row_stride(dtype_, K_);
    const auto* from = static_cast<const char*>(x);
    char* to = data_;
    for (int64_t m = 0; m < rows; ++m, from += bytes, to += stride)
      if (dtype_ == x_dtype_)
        std::memcpy(to, from, bytes);
      else
        widen(from, x_dtype_, K_, reinterpret_cast<float*>(to));
  }

  Float dtype() const { return dtype_; }
  const void* data() const { return data_; }

 private:
  Float x_dtype_, dtype_;
  int64_t K_;
  std::vector<char> memory_;
  char* data_;
};

Tensor int8_weight_linear(const Tensor& x_in, const Tensor& w_q_in, const Tensor& w_scale,
                          const OptTensor& bias, Act act, const OptTensor& residual,
                          const OptScalarType& out_dtype, const OptTensor& w_packed) {
  check_on_cpu(x_in, "x");
  check_int8_weight_linear(x_in, w_q_in, w_scale, bias, residual, w_packed);
  const Tensor x = dense(x_in), w_q = dense(w_q_in);
  const Float dtype = to_float(x, "x");
  const int64_t M = rows(x), N = w_q.size(0), K = w_q.size(1);
  const ScalarType y_dtype = out_dtype.value_or(x.scalar_type());
  const Epilogue finish(w_scale, bias, act, residual, y_dtype);
  Tensor y = torch::stable::empty(sizes_with_last(x, N), y_dtype);
  if (M == 0 || N == 0) return y;

  const int64_t threads = torch::stable::get_num_threads();
  const int64_t fitting = kXBytes / (int64_t(sizeof(float)) * (K + 1));
  const int64_t most_rows = std::min(M, part(M, std::clamp<int64_t>(fitting, 4, kRows), 4));
  const int64_t row_blocks = ceil_div(M, most_rows);
  const int64_t share = ceil_div(N * row_blocks, threads);
  const int64_t worth = kLittleWork / (most_rows * (K + 1));
  const int64_t most_columns = part(std::min(N, std::max(share, worth)), kColumns, 8);
  const int64_t blocks = row_blocks * ceil_div(N, most_columns);

  const auto* x_ptr = static_cast<const char*>(x.const_data_ptr());
  const int8_t* w = w_q.const_data_ptr<int8_t>();
  auto* y_ptr = static_cast<char*>(y.mutable_data_ptr());
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t block, int64_t end) {
    Rows x_rows(dtype, most_rows, K);
    std::vector<float> acc(most_rows * most_columns);
    for (; block < end; ++block) {
      const int64_t m = block % row_blocks * most_rows, n = block / row_blocks * most_columns;
      const Block at{m, std::min(M, m + most_rows), n, std::min(N, n + most_columns)};
      x_rows.fill(x_ptr + m * K * bytes(dtype), at.rows());
      dot_columns(x_rows.data(), x_rows.dtype(), at.rows(), w + n * K, at.columns(), K, acc.data());
      finish(at, acc.data(), nullptr, y_ptr + m * finish.row_bytes() + n * y.element_size());
    }
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(green_kernels, CPU, m) {
  m.impl("int8_weight_linear", TORCH_BOX(&int8_weight_linear));
}

}  // namespace green_kernels
