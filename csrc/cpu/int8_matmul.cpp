// int8_matmul, CPU.  A thread takes a block of rows through all three steps while it is in its
// cache: fill the left matrix, multiply by oneDNN, finish.  Where there are too few rows for that,
// oneDNN shares out the columns; where there is too little work for oneDNN, a loop of our own does.
#include "int8_matmul.h"

#include <algorithm>

#include "onednn.h"
#include "rows.h"

namespace green_kernels {
namespace {

constexpr int64_t kLittleWork = 1 << 18;  // products: less time than oneDNN needs to get started
constexpr int64_t kRowsToPack = 16;       // of x, that repay packing w_q for this one call
constexpr int64_t kBlockBytes = 1 << 20;  // of sums: half an L2 cache
constexpr int64_t kLeastRows = 32;        // in a block: fewer would leave AMX tiles half empty
constexpr int64_t kMostRows = 256;

class Epilogue {
 public:
  Epilogue(const Tensor& w_scale, const OptTensor& bias, Act act, const OptTensor& residual,
           Tensor& y)
      : N_(w_scale.numel()),
        w_scale_(dense(w_scale)),
        act_(act),
        residual_(dense(residual)),
        residual_dtype_(float_or_any(residual, "residual")),
        y_dtype_(to_float(y, "out_dtype")),
        y_(static_cast<char*>(y.mutable_data_ptr())),
        y_bytes_(y.element_size()) {
    if (!bias) return;
    bias_.resize(N_);
    widen(dense(*bias).const_data_ptr(), to_float(*bias, "bias"), N_, bias_.data());
  }

  // Rows first to last of y, from their sums.
  void operator()(int64_t first, int64_t last, const float* acc, const float* x_scale) const {
    std::vector<float> residual(residual_ ? N_ : 0), narrowed(y_dtype_ == Float::kFloat32 ? 0 : N_);
    for (int64_t m = first; m < last; ++m, acc += N_, ++x_scale) {
      char* y = y_ + m * N_ * y_bytes_;
      float* wide = narrowed.empty() ? reinterpret_cast<float*>(y) : narrowed.data();
      if (residual_) {
        const auto* from = static_cast<const char*>(residual_->const_data_ptr());
        widen(from + m * N_ * residual_->element_size(), residual_dtype_, N_, residual.data());
      }
      epilogue_row(acc, *x_scale, w_scale_.const_data_ptr<float>(),
                   bias_.empty() ? nullptr : bias_.data(), act_,
                   residual_ ? residual.data() : nullptr, N_, wide);
      if (!narrowed.empty()) narrow(wide, N_, y_dtype_, y);
    }
  }

 private:
  int64_t N_;
  Tensor w_scale_;
  std::vector<float> bias_;
  Act act_;
  OptTensor residual_;
  Float residual_dtype_, y_dtype_;
  char* y_;
  int64_t y_bytes_;
};

bool is_packed(const Tensor& w_packed, int64_t N, int64_t K) {
  return w_packed.layout() == torch::headeronly::Layout::Mkldnn && w_packed.dim() == 2 &&
         w_packed.size(0) == K && w_packed.size(1) == N;
}

// Our own loop: rows times columns shared among the threads, whichever there is more of.
void multiply_small(int64_t M, const FillRows& fill, const Tensor& w_q, const Epilogue& finish) {
  const int64_t N = w_q.size(0), K = w_q.size(1);
  const int8_t* w = w_q.const_data_ptr<int8_t>();
  const int64_t grain = std::max<int64_t>(1, kLittleWork / std::max<int64_t>(1, N * K));
  torch::stable::parallel_for(0, M, grain, [&](int64_t first, int64_t last) {
    std::vector<uint8_t> x(K);
    std::vector<float> acc(N);
    float x_scale;
    for (int64_t m = first; m < last; ++m) {
      fill(m, m + 1, x.data(), &x_scale);
      const int64_t columns = std::max<int64_t>(1, kLittleWork / std::max<int64_t>(1, K));
      torch::stable::parallel_for(0, N, columns, [&](int64_t n, int64_t n_last) {
        dot_rows(x.data(), w + n * K, n_last - n, K, acc.data() + n);
      });
      finish(m, m + 1, acc.data(), &x_scale);
    }
  });
}

void multiply_block(int64_t first, int64_t last, int64_t K, const FillRows& fill,
                    const Tensor& w_packed, const Epilogue& finish) {
  Tensor x = torch::stable::empty({last - first, K}, ScalarType::Byte);
  std::vector<float> x_scale(last - first);
  fill(first, last, x.mutable_data_ptr<uint8_t>(), x_scale.data());
  const Tensor acc = onednn_product(x, w_packed);
  finish(first, last, acc.const_data_ptr<float>(), x_scale.data());
}

// All rows at once: oneDNN's threads share its product, ours the rest.
void multiply_whole(int64_t M, int64_t K, const FillRows& fill, const Tensor& w_packed,
                    const Epilogue& finish) {
  Tensor x = torch::stable::empty({M, K}, ScalarType::Byte);
  auto* x_ptr = x.mutable_data_ptr<uint8_t>();
  std::vector<float> x_scale(M);
  torch::stable::parallel_for(0, M, 4, [&](int64_t first, int64_t last) {
    fill(first, last, x_ptr + first * K, x_scale.data() + first);
  });
  const Tensor acc = onednn_product(x, w_packed);
  const float* sums = acc.const_data_ptr<float>();
  const int64_t N = M ? acc.numel() / M : 0;
  torch::stable::parallel_for(0, M, 4, [&](int64_t first, int64_t last) {
    finish(first, last, sums + first * N, x_scale.data() + first);
  });
}

Tensor int8_matmul(const Tensor& x_q_in, const Tensor& x_scale_in, const Tensor& w_q,
                   const Tensor& w_scale, const OptTensor& bias, const OptTensor& residual, Act act,
                   const OptScalarType& out_dtype, const OptTensor& w_packed) {
  check_int8_matmul(x_q_in, x_scale_in, w_q, w_scale, bias, residual);
  const Tensor x_q = dense(x_q_in), x_scale = dense(x_scale_in);
  const int64_t K = w_q.size(1);
  const int8_t* from = x_q.const_data_ptr<int8_t>();
  const float* scales = x_scale.const_data_ptr<float>();
  const FillRows fill = [=](int64_t first, int64_t last, uint8_t* x, float* scale) {
    offset_row(from + first * K, (last - first) * K, x);
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
  to_float(out_dtype, "out_dtype");
  Tensor y = torch::stable::empty(sizes, out_dtype);
  if (y.numel() == 0) return y;
  const int64_t N = w_q.size(0), K = w_q.size(1);
  const Epilogue finish(w_scale, bias, act, residual, y);
  STD_TORCH_CHECK(!w_packed || is_packed(*w_packed, N, K),
                  "w_packed must be what pack_weight(w_q) returned, got shape ", shape(*w_packed));

  const bool packed = w_packed || (M >= kRowsToPack && onednn_is_exact());
  if (!packed || M * N * K <= kLittleWork) {
    multiply_small(M, fill, dense(w_q), finish);
    return y;
  }
  const Tensor weights = w_packed ? *w_packed : onednn_pack(dense(w_q));
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t fitting = kBlockBytes / int64_t(sizeof(float)) / N;
  const int64_t block = std::min(std::clamp(fitting, kLeastRows, kMostRows), ceil_div(M, threads));
  if (block < kLeastRows)
    multiply_whole(M, K, fill, weights, finish);
  else
    torch::stable::parallel_for(0, ceil_div(M, block), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        multiply_block(i * block, std::min(M, (i + 1) * block), K, fill, weights, finish);
    });
  return y;
}

STABLE_TORCH_LIBRARY_IMPL(green_kernels, CPU, m) { m.impl("int8_matmul", TORCH_BOX(&int8_matmul)); }

// An opaque w_packed makes the dispatcher look here.
STABLE_TORCH_LIBRARY_IMPL(green_kernels, MkldnnCPU, m) {
  m.impl("int8_matmul", TORCH_BOX(&int8_matmul));
}

}  // namespace green_kernels
