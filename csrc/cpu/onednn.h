// The exact product of int8 matrices by oneDNN, through torch.
#pragma once

#include "../common.h"

namespace green_kernels {

// Whether oneDNN's product of uint8 and int8 is exact on this CPU.  It is where there is VNNI or
// AMX; on older CPUs it saturates sums of pairs at 16 bits.  oneDNN is asked, not the CPU, because
// ONEDNN_MAX_CPU_ISA may hold it back.
bool onednn_is_exact();

// w_q (N, K) in the layout that oneDNN multiplies fastest; opaque.
Tensor onednn_pack(const Tensor& w_q);

// float((x - 128) @ w_q.T), exact in int32 until that last step: x (M, K) uint8, w_packed from
// onednn_pack, the result (M, N) float32.
Tensor onednn_product(const Tensor& x, const Tensor& w_packed);

}  // namespace green_kernels
