// How long a plan takes, as far as that can be known without a GPU: a model of waves of blocks and
// of bandwidths, from published figures. It has to rank plans, and to tell where int8 gains nothing
// over floating point; its nanoseconds are nobody's measurement. Where measurements say otherwise,
// they go first (plans.h).
#pragma once

#include "int8_matmul_plan.h"

namespace green_kernels {

// What an SM does in a cycle, from the manufacturer's peak rates. From sm_100 on, int8 is
// multiplied by mma alone, at a rate that nobody has published or measured here: as sm_80's.
struct Rates {
  int arch;             // this one and those after it, up to the next row
  double ghz;           // under load
  double mma, wgmma;    // multiply-adds of int8
  double half, single;  // multiply-adds of 16-bit floats and of float32, as torch computes them
  double l2;            // bytes from L2
  double memory;        // bytes in a nanosecond from memory, of the whole GPU where it says nothing
};
constexpr Rates kRates[] = {
    {80, 1.41, 2048, 0, 1024, 64, 40, 1555},      // A100
    {86, 1.70, 1024, 0, 512, 128, 32, 600},       // A10
    {89, 2.30, 1024, 0, 512, 128, 32, 864},       // L40S
    {90, 1.75, 2048, 4096, 2048, 128, 40, 3350},  // H100
    {100, 1.80, 2048, 0, 4096, 128, 40, 8000},    // B200
    {120, 2.40, 1024, 0, 512, 128, 32, 1792},     // RTX 5090
};

constexpr Rates rates_of(int arch) {
  Rates found = kRates[0];
  for (const Rates& rates : kRates)
    if (rates.arch <= arch) found = rates;
  return found;
}

constexpr double memory_of(const Gpu& gpu) {
  return gpu.memory > 0 ? gpu.memory : rates_of(gpu.arch).memory;
}

// In nanoseconds. A kernel's first bytes are on their way for about as long as its blocks take to
// start; of a kernel that begins while the one before it ends, that is hidden.
constexpr double kStart = 2000, kNext = 1000, kOverlapped = 400;
constexpr double kLatency = 700;    // of memory under load
constexpr double kExchange = 1500;  // sums through memory: fence, counter, and back
// Two barriers of a cluster, and between them a read of another SM's shared memory: 180 cycles each
// (Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture, 2024) and something.
constexpr double kClusterSync = 400;
constexpr double kSharedBytes = 128;  // of an SM's shared memory in a cycle
constexpr double kOutputs = 24;       // values of y that an SM finishes in a cycle
constexpr double kAchieved = 0.8;     // of peak rates of multiplying, ours and others'

constexpr double larger(double a, double b) { return a > b ? a : b; }
constexpr double least(int64_t a, int64_t b) { return double(a < b ? a : b); }

// A plan's blocks, as the model sees them.
struct Blocks {
  double m, n;       // of x and of w
  double shares_w;   // blocks that read w from L2 together
  double multiply;   // multiply-adds in a cycle of an SM
  double shared;     // bytes of shared memory read for each byte of K
  double in_flight;  // bytes on their way to one
  double resident;   // blocks of an SM at a time, where there are enough of them
};

// One or two: more would not be needed. An SM has a kilobyte more than a block may have.
constexpr double resident_of(int shared_bytes, const Gpu& gpu) {
  return 2 * shared_bytes > gpu.shared_limit + 1024 ? 1 : 2;
}

constexpr Blocks blocks_of(const Plan& plan, int64_t K, const Gpu& gpu) {
  const Rates rates = rates_of(gpu.arch);
  if (plan.kernel == Kernel::kWgmma) {
    const WgmmaTile& tile = kWgmmaTiles[plan.tile];
    // Each wgmma reads its 64 rows of x and all of w's.
    return {double(tile.m),
            double(tile.n),
            double(tile.cluster),
            rates.wgmma,
            double(tile.m) / kWgmmaM * (kWgmmaM + tile.n),
            double(tile.stages) * stage_bytes(tile),
            1};
  }
  if (plan.kernel == Kernel::kDecode) {
    const DecodeTile& tile = kDecodeTiles[plan.tile];
    return {double(tile.tokens),
            double(kDecodeRows),
            1,
            rates.wgmma,
            double(kDecodeRows) / kWgmmaM * (kWgmmaM + tile.tokens),
            double(tile.stages) * (kDecodeRows + tile.tokens) * kStageK,
            resident_of(decode_shared_bytes(tile, K, plan.splits), gpu)};
  }
  const Tile& tile = kTiles[plan.tile];
  const double warps = tile.warps_m * tile.warps_n;
  return {double(tile.m),
          double(tile.n),
          1,
          rates.mma,
          warps * (warp_m(tile) + warp_n(tile)),
          double(tile.stages - 1) * stage_bytes(tile),
          resident_of(shared_bytes(tile), gpu)};
}

// Of the product alone: when the busiest SM is through with its blocks, or memory with all bytes.
constexpr double product_time(int64_t M, int64_t N, int64_t K, const Gpu& gpu, const Plan& plan) {
  const Rates rates = rates_of(gpu.arch);
  const Blocks block = blocks_of(plan, K, gpu);
  const double share = double(ceil_div(K, plan.splits));
  const double count = double(ceil_div(M, int64_t(block.m * block.shares_w))) * block.shares_w *
                       double(ceil_div(N, int64_t(block.n))) * plan.splits;
  const double rounds = double(ceil_div(int64_t(count), gpu.sm_count));

  const double read = least(M, int64_t(block.m)) + least(N, int64_t(block.n)) / block.shares_w;
  const double cycles =
      larger(larger(block.m * block.n / (block.multiply * kAchieved), block.shared / kSharedBytes),
             read / rates.l2) *
      share;
  const double at_a_time = block.resident < rounds ? block.resident : rounds;
  const double arriving = read * share * kLatency / (block.in_flight * at_a_time);
  const double writing = block.m * block.n / plan.splits / kOutputs;
  const double bytes = double(M + N) * double(K) + 2.0 * double(M) * double(N);
  return larger(rounds * larger(cycles / rates.ghz, arriving) + rounds * writing / rates.ghz,
                bytes / memory_of(gpu));
}

// Of handing over sums, where several blocks share K.
constexpr double split_time(int64_t M, int64_t N, const Gpu& gpu, const Plan& plan,
                            bool from_float) {
  if (plan.splits == 1) return 0;
  if (plan.kernel == Kernel::kDecode) return kClusterSync;
  const double bytes = 2.0 * double(workspace_bytes(plan, M, N));
  const double zeroing = from_float ? 0 : kNext;  // of the counters, by a kernel of its own
  const Rates rates = rates_of(gpu.arch);
  return kExchange + zeroing + bytes / (rates.l2 * rates.ghz * gpu.sm_count);
}

// Of rounding x, (M, K) in 16 bits.
constexpr double quantizing_time(int64_t M, int64_t K, const Gpu& gpu, const Plan& plan) {
  const double values = double(M) * double(K);
  if (quantizes(plan)) {  // each block reads all of x, while the first of w arrive
    const Rates rates = rates_of(gpu.arch);
    return values * 2 / (rates.l2 * rates.ghz) + kLatency;
  }
  return kStart + values * 3 / memory_of(gpu) - (gpu.overlaps ? kNext - kOverlapped : 0);
}

constexpr double plan_time(int64_t M, int64_t N, int64_t K, const Gpu& gpu, const Plan& plan,
                           bool from_float) {
  return kStart + product_time(M, N, K, gpu, plan) + split_time(M, N, gpu, plan, from_float) +
         (from_float ? quantizing_time(M, K, gpu, plan) : 0);
}

// Of the float layer that int8 stands for, whose values have `bytes` bytes: as a good library would
// do it, whole waves or not.
constexpr double float_time(int64_t M, int64_t N, int64_t K, const Gpu& gpu, int bytes) {
  const Rates rates = rates_of(gpu.arch);
  const double rate = (bytes == 2 ? rates.half : rates.single) * kAchieved * rates.ghz;
  const double multiplying = double(M) * double(N) * double(K) / (rate * gpu.sm_count);
  const double moved = bytes * (double(M + N) * double(K) + double(M) * double(N)) / memory_of(gpu);
  return kStart + larger(multiplying, moved);
}

// The plan of least predicted time. `from_float`: of int8_linear, whose x is to be rounded first.
constexpr Plan choose_plan(int64_t M, int64_t N, int64_t K, const Gpu& gpu, bool from_float) {
  Plan best{Kernel::kMma, kTileCount - 1, 1};  // runs everywhere
  double best_time = plan_time(M, N, K, gpu, best, from_float);
  for_plans(M, N, K, gpu, from_float, [&](const Plan& plan) {
    const double time = plan_time(M, N, K, gpu, plan, from_float);
    if (time < best_time) best = plan, best_time = time;
  });
  return best;
}

}  // namespace green_kernels
