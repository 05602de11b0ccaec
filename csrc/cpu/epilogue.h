// From float32 sums to outputs, on the CPU: what int8_matmul and int8_weight_linear share.
#pragma once

#include <vector>

#include "../common.h"
#include "rows.h"

namespace green_kernels {

// Rows [first, last) and columns [begin, end) of y.
struct Block {
  int64_t first, last, begin, end;
  int64_t rows() const { return last - first; }
  int64_t columns() const { return end - begin; }
};

class Epilogue {
 public:
  Epilogue(const Tensor& w_scale, const OptTensor& bias, Act act, const OptTensor& residual,
           ScalarType out_dtype)
      : N_(w_scale.numel()),
        w_scale_(dense(w_scale)),
        act_(act),
        residual_(dense(residual)),
        residual_dtype_(float_or_any(residual, "residual")),
        y_dtype_(to_float(out_dtype, "out_dtype")) {
    if (!bias) return;
    bias_.resize(N_);
    widen(dense(*bias).const_data_ptr(), to_float(*bias, "bias"), N_, bias_.data());
  }

  int64_t row_bytes() const { return N_ * bytes(y_dtype_); }

  // A block of y, which begins at y, from its sums, row after row, and the scales of its rows, or
  // null where they have none.  A float32 y of whole rows may be where the sums are.
  void operator()(const Block& at, const float* acc, const float* x_scale, void* y) const {
    const int64_t n = at.columns();
    std::vector<float> residual(residual_ ? n : 0), wide(y_dtype_ == Float::kFloat32 ? 0 : n);
    auto* row = static_cast<char*>(y);
    for (int64_t m = at.first; m < at.last; ++m, acc += n, row += row_bytes()) {
      float* out = wide.empty() ? reinterpret_cast<float*>(row) : wide.data();
      if (residual_) {
        const auto* from = static_cast<const char*>(residual_->const_data_ptr());
        widen(from + (m * N_ + at.begin) * bytes(residual_dtype_), residual_dtype_, n,
              residual.data());
      }
      epilogue_row(acc, x_scale ? *x_scale++ : 1, w_scale_.const_data_ptr<float>() + at.begin,
                   bias_.empty() ? nullptr : bias_.data() + at.begin, act_,
                   residual_ ? residual.data() : nullptr, n, out);
      if (!wide.empty()) narrow(out, n, y_dtype_, row);
    }
  }

 private:
  int64_t N_;
  Tensor w_scale_;
  std::vector<float> bias_;
  Act act_;
  OptTensor residual_;
  Float residual_dtype_, y_dtype_;
};

}  // namespace green_kernels
