// The exact product of int8 matrices by oneDNN, through torch.
#pragma once

#include "../common.h"

namespace green_kernels {

// How oneDNN takes the left matrix where its product is exact and fast on this CPU: signed with
// AMX, which does not see to the end of an unsigned one; unsigned, around 128, with VNNI, which has
// no signed one; not at all on older CPUs, which saturate sums of pairs at 16 bits.
enum class Left { kNone, kSigned, kUnsigned };

// Found once, by trial.
Left onednn_left();

// What is added to a value of the left matrix.
inline int zero_point(Left left) { return left == Left::kUnsigned ? 128 : 0; }

// (M, K) bytes for the left matrix, not yet filled.
Tensor onednn_rows(Left left, int64_t M, int64_t K);

// w_q (N, K) in the layout that oneDNN multiplies fastest; opaque.
Tensor onednn_pack(const Tensor& w_q);

// float((x - zero) @ w_q.T), exact in int32 until that last step: x from onednn_rows, w_packed from
// onednn_pack, the result (M, N) float32.
Tensor onednn_product(Left left, const Tensor& x, const Tensor& w_packed);

}  // namespace green_kernels
