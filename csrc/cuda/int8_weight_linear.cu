// int8_weight_linear, CUDA: the kernel for few rows or that for many, on the current device.
#include "int8_weight_linear_kernels.h"
#include "int8_weight_linear_schedule.h"

namespace green_kernels {

const char* int8_weight_linear_cuda(const Int8WeightLinear& args, void* stream) {
  if (args.M == 0 || args.N == 0) return nullptr;
  Launch launch{};
  launch.stream = stream;
  if (const char* error = current_gpu(launch.gpu)) return error;
  const bool skinny = is_skinny(args.M, args.x_dtype);
  const int tile = choose_weight_tile(args.M, args.N, launch.gpu.sm_count);
  const int64_t blocks = skinny ? skinny_blocks(args.M, args.N)
                                : weight_tiles_of_y(kWeightTiles[tile], args.M, args.N);
  if (blocks > INT32_MAX) return "M * N is too large for one launch";
  return words(skinny ? launch_skinny(args, launch) : launch_weight_tiles(args, tile, launch));
}

}  // namespace green_kernels
