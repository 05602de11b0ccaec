// int8_matmul, CPU: what int8_linear shares.
#pragma once

#include <functional>

#include "../common.h"

namespace green_kernels {

// Where the left matrix comes from: fill(first, last, zero, x, x_scale) writes those rows, `zero`
// added to each value, and their scales.  Called from several threads at once.
using FillRows =
    std::function<void(int64_t first, int64_t last, int zero, uint8_t* x, float* x_scale)>;

// y = act(x_q @ w_q.T * x_scale * w_scale + bias) + residual, y of the given sizes (..., N).
Tensor int8_product(int64_t M, const FillRows& fill, const Tensor& w_q, const Tensor& w_scale,
                    const OptTensor& bias, Act act, const OptTensor& residual,
                    const std::vector<int64_t>& sizes, ScalarType out_dtype,
                    const OptTensor& w_packed);

}  // namespace green_kernels
