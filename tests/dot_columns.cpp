// The kernels of csrc/cpu/dot_columns.cpp by name: a CPU that chooses one of them has the others
// too, which no other test runs.
#include "../csrc/cpu/dot_columns.cpp"

namespace green_kernels {
namespace {

struct Kernel {
  const char* name;
  Float dtype;
  bool runs_here;
  Dot* run;
};

const Kernel kKernels[] = {
    {"least", Float::kFloat32, true, dot<Float32<4, 8>>},
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    {"avx2", Float::kFloat32, bool(__builtin_cpu_supports("x86-64-v3")), dot_v3},
    {"avx512", Float::kFloat32, bool(__builtin_cpu_supports("x86-64-v4")), dot_v4},
    {"avx512bf16", Float::kBFloat16, best_of_bfloat16() != nullptr, dot_bfloat16},
#endif
};

}  // namespace
}  // namespace green_kernels

extern "C" {

// Bytes between rows of x for the kernel of this name; 0 where it does not run on this CPU.
int64_t stride_of(const char* name, int64_t K) {
  for (const auto& kernel : green_kernels::kKernels)
    if (std::strcmp(kernel.name, name) == 0 && kernel.runs_here)
      return green_kernels::row_stride(kernel.dtype, K);
  return 0;
}

void run(const char* name, const void* x, int64_t M, const int8_t* w_q, int64_t N, int64_t K,
         float* acc) {
  for (const auto& kernel : green_kernels::kKernels)
    if (std::strcmp(kernel.name, name) == 0)
      kernel.run(x, green_kernels::row_stride(kernel.dtype, K), M, w_q, N, K, acc);
}
}
