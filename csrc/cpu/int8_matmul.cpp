// int8_matmul, CPU.  Rows go through three steps: fill the left matrix, multiply by oneDNN, finish.
// A float32 output is finished where oneDNN left the sums, each step shared among the threads.  For
// a narrower one, a thread takes blocks of rows through all steps while they are in its cache.
// Where there is too little work for oneDNN, a loop of our own does.
#include "int8_matmul.h"

#include <algorithm>

#include "epilogue.h"
#include "onednn.h"
#include "rows.h"

namespace green_kernels {
namespace {

constexpr int64_t kLittleWork = 1 << 18;  // products: less time than oneDNN needs to get started
constexpr int64_t kRowsToPack = 16;       // of x, that repay packing w_q for this one call
constexpr int64_t kBlockBytes = 2 << 20;  // of a thread's rows and their sums: an L2 cache
constexpr int64_t kLeastRows = 64;        // in a block: fewer would not repay starting oneDNN
constexpr int64_t kLeastShare = 256;      // rows for each thread: with fewer, share the columns
constexpr int64_t kGrain = 4;             // rows that are worth a thread's while

bool is_packed(const Tensor& w_packed, int64_t N, int64_t K) {
  return w_packed.layout() == torch::headeronly::Layout::Mkldnn &&
         w_packed.scalar_type() == ScalarType::Char && w_packed.dim() == 2 &&
         w_packed.size(0) == K && w_packed.size(1) == N;
}

// Our own loop: rows or columns shared among the threads, whichever there is more work in.
void multiply_small(int64_t M, const FillRows& fill, const Tensor& w_q, const Epilogue& finish,
                    Tensor& y) {
  const int64_t N = w_q.size(0), K = w_q.size(1);
  const int8_t* w = w_q.const_data_ptr<int8_t>();
  auto* y_ptr = static_cast<char*>(y.mutable_data_ptr());
  const int64_t rows = std::max<int64_t>(1, kLittleWork / std::max<int64_t>(1, N * K));
  const int64_t columns = std::max<int64_t>(1, kLittleWork / std::max<int64_t>(1, K));
  torch::stable::parallel_for(0, M, rows, [&](int64_t first, int64_t last) {
    std::vector<int8_t> x(K);
    std::vector<float> acc(N);
    float x_scale;
    for (int64_t m = first; m < last; ++m) {
      fill(m, m + 1, 0, reinterpret_cast<uint8_t*>(x.data()), &x_scale);
      torch::stable::parallel_for(0, N, columns, [&](int64_t n, int64_t n_last) {
        dot_rows(x.data(), w + n * K, n_last - n, K, acc.data() + n);
      });
      finish({m, m + 1, 0, N}, acc.data(), &x_scale, y_ptr + m * finish.row_bytes());
    }
  });
}

// Rows first to last by oneDNN.  With no y, the sums become it; either way, returns the sums.
Tensor multiply(int64_t first, int64_t last, const FillRows& fill, const Tensor& w_packed,
                const Epilogue& finish, void* y) {
  const int64_t K = w_packed.size(0), N = w_packed.size(1);
  const Left left = onednn_left();
  Tensor x = onednn_rows(left, last - first, K);
  auto* x_ptr = static_cast<uint8_t*>(x.mutable_data_ptr());
  std::vector<float> x_scale(last - first);
  torch::stable::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
    fill(begin, end, zero_point(left), x_ptr + (begin - first) * K,
         x_scale.data() + (begin - first));
  });
  Tensor sums = onednn_product(left, x, w_packed);
  auto* acc = sums.mutable_data_ptr<float>();
  auto* out = static_cast<char*>(y ? y : acc);
  const int64_t row_bytes = finish.row_bytes();
  torch::stable::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
    const int64_t row = begin - first;
    finish({begin, end, 0, N}, acc + row * N, x_scale.data() + row, out + row * row_bytes);
  });
  return sums;
}

Tensor int8_matmul(const Tensor& x_q_in, const Tensor& x_scale_in, const Tensor& w_q,
                   const Tensor& w_scale, const OptTensor& bias, const OptTensor& residual, Act act,
                   const OptScalarType& out_dtype, const OptTensor& w_packed) {
  check_on_cpu(x_q_in, "x_q");
  check_int8_matmul(x_q_in, x_scale_in, w_q, w_scale, bias, residual);
  const Tensor x_q = dense(x_q_in), x_scale = dense(x_scale_in);
  const int64_t K = w_q.size(1);
  const int8_t* from = x_q.const_data_ptr<int8_t>();
  const float* scales = x_scale.const_data_ptr<float>();
  const FillRows fill = [=](int64_t first, int64_t last, int zero, uint8_t* x, float* scale) {
    offset_row(from + first * K, (last - first) * K, zero, x);
    std::copy(scales + first, scales + last, scale);
  };
  return int8_product(rows(x_q), fill, w_q, w_scale, bias, act, residual,
                      sizes_with_last(x_q, w_q.size(0)), out_dtype.value_or(ScalarType::Float),
                      w_packed);
}

}  // namespace

Tensor int8_product(int64_t M, const FillRows& fill, const Tensor& w_q, const Tensor& w_scale,
                    const OptTensor& bias, Act act, const OptTensor& residual,
                    const std::vector<int64_t>& sizes, ScalarType out_dtype,
                    const OptTensor& w_packed) {
  const int64_t N = w_q.size(0), K = w_q.size(1);
  const Epilogue finish(w_scale, bias, act, residual, out_dtype);
  CHECK(!w_packed || is_packed(*w_packed, N, K),
        "w_packed must be what pack_weight(w_q) returned, got shape ", shape(*w_packed));

  const bool by_onednn =
      M * N * K > kLittleWork && (w_packed || M >= kRowsToPack) && onednn_left() != Left::kNone;
  if (!by_onednn) {
    Tensor y = torch::stable::empty(sizes, out_dtype);
    if (y.numel()) multiply_small(M, fill, dense(w_q), finish, y);
    return y;
  }
  const Tensor weights = w_packed ? *w_packed : onednn_pack(dense(w_q));
  if (out_dtype == ScalarType::Float)
    return torch::stable::reshape(multiply(0, M, fill, weights, finish, nullptr), sizes);

  Tensor y = torch::stable::empty(sizes, out_dtype);
  auto* y_ptr = static_cast<char*>(y.mutable_data_ptr());
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t fitting = kBlockBytes / (K + int64_t(sizeof(float)) * N);
  const int64_t rows = M < kLeastShare * threads ? M : std::max(fitting, kLeastRows);
  torch::stable::parallel_for(0, ceil_div(M, rows), 1, [&](int64_t block, int64_t end) {
    for (; block < end; ++block) {
      const int64_t first = block * rows;
      multiply(first, std::min(M, first + rows), fill, weights, finish,
               y_ptr + first * finish.row_bytes());
    }
  });
  return y;
}

STABLE_TORCH_LIBRARY_IMPL(green_kernels, CPU, m) { m.impl("int8_matmul", TORCH_BOX(&int8_matmul)); }

// An opaque w_packed makes the dispatcher look here.
STABLE_TORCH_LIBRARY_IMPL(green_kernels, MkldnnCPU, m) {
  m.impl("int8_matmul", TORCH_BOX(&int8_matmul));
}

}  // namespace green_kernels
