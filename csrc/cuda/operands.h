// What the torch sides of the products share: tensors as the kernel wants them, and
// where it is to run.
#pragma once

#include "../common.h"
#include "../plans.h"
#include "int8_matmul.h"
#include "stream.h"

namespace green_kernels {

// q (..., K) as (rows, K) whose rows begin at multiples of kChunk bytes: itself, or a copy.
inline Tensor with_aligned_rows(const Tensor& q) {
  const int64_t K = q.size(-1), stride = round_up(K, kChunk);
  const bool is_aligned = reinterpret_cast<uintptr_t>(q.const_data_ptr()) % kChunk == 0;
  if (q.is_contiguous() && K == stride && is_aligned) return q;
  Tensor copy = torch::stable::new_empty(q, {rows(q), stride});
  Tensor values = torch::stable::narrow(copy, 1, 0, K);
  torch::stable::copy_(values, torch::stable::reshape(q, {rows(q), K}));
  return copy;
}

// w_packed where it is of use, or else w_q, copied where it must be.
inline Tensor with_aligned_rows(const Tensor& w_q, const OptTensor& w_packed) {
  const int64_t N = w_q.size(0), K = w_q.size(1);
  const bool is_of_use = w_packed && w_packed->is_cuda() &&
                         w_packed->scalar_type() == ScalarType::Char && w_packed->dim() == 2 &&
                         w_packed->size(0) == N && w_packed->size(1) == round_up(K, kChunk) &&
                         w_packed->get_device_index() == w_q.get_device_index();
  return with_aligned_rows(is_of_use ? *w_packed : w_q);
}

// What the arguments of the products have in common, as a T. The tensors are dense and outlive the
// result.
template <typename T>
T product_arguments(const Tensor& w_q, const Tensor& w_scale, const OptTensor& bias,
                    const OptTensor& residual, Act act, Tensor& y, int64_t M, int64_t N,
                    int64_t K) {
  T product{};
  product.w_q_stride = round_up(K, kChunk);
  product.w_q = w_q.const_data_ptr<int8_t>();
  product.w_scale = w_scale.const_data_ptr<float>();
  product.bias = data_or_null(bias);
  product.bias_dtype = float_or_any(bias, "bias");
  product.residual = data_or_null(residual);
  product.residual_dtype = float_or_any(residual, "residual");
  product.y = y.mutable_data_ptr();
  product.y_dtype = to_float(y, "out_dtype");
  product.act = act;
  product.M = M, product.N = N, product.K = K;
  return product;
}

// All but x_q and x_scale.
inline Int8Matmul int8_matmul_arguments(const Tensor& w_q, const Tensor& w_scale,
                                        const OptTensor& bias, const OptTensor& residual, Act act,
                                        Tensor& y, int64_t M, int64_t N, int64_t K) {
  auto matmul = product_arguments<Int8Matmul>(w_q, w_scale, bias, residual, act, y, M, N, K);
  matmul.x_q_stride = matmul.w_q_stride;
  return matmul;
}

// A plan and what it needs, for a product whose y is on the current device. `workspace` is to
// outlive the launch.
inline Launch planned_launch(const Int8Matmul& matmul, bool from_float, const Tensor& y,
                             OptTensor& workspace) {
  Launch launch{};
  const char* error = current_gpu(launch.gpu);
  CHECK(error == nullptr, error);
  launch.plan = planned(matmul.M, matmul.N, matmul.K, launch.gpu, from_float);
  launch.stream = current_stream(y);
  if (const int64_t bytes = workspace_bytes(launch.plan, matmul.M, matmul.N)) {
    workspace = torch::stable::new_empty(y, {bytes}, ScalarType::Byte);
    launch.workspace = workspace->mutable_data_ptr();
  }
  return launch;
}

}  // namespace green_kernels
