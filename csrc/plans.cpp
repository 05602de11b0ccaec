#include "plans.h"

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "cuda/int8_matmul_cost.h"

namespace green_kernels {
namespace {

// The chooser looks at some fifty plans, which takes as long as a launch, some microseconds; so
// what it chose is kept.
using Product = std::tuple<int64_t, int64_t, int64_t, int, int, int, int, bool, bool, bool>;
constexpr size_t kMostKept = 1 << 14;  // of lengths that vary without end, the last few

std::mutex mutex;
std::optional<Plan> asked_for;
std::vector<MeasuredPlan> measured;
std::map<Product, Plan> chosen;

Plan choose(int64_t M, int64_t N, int64_t K, const Gpu& gpu, bool from_float) {
  for (const MeasuredPlan& one : measured)
    if (one.arch == gpu.arch && one.sm_count == gpu.sm_count && one.memory == gpu.memory &&
        one.first_M <= M && M <= one.last_M && one.N == N && one.K == K &&
        one.from_float == from_float && is_possible(one.plan, M, N, K, gpu, from_float))
      return one.plan;
  return choose_plan(M, N, K, gpu, from_float);
}

std::string tile_name(const Plan& plan) {
  const auto times = [](int a, int b) { return std::to_string(a) + "x" + std::to_string(b); };
  if (plan.kernel == Kernel::kWgmma) {
    const WgmmaTile& tile = kWgmmaTiles[plan.tile];
    return times(tile.m, tile.n) + (tile.cluster > 1 ? "x" + std::to_string(tile.cluster) : "");
  }
  if (plan.kernel == Kernel::kDecode) {
    const DecodeTile& tile = kDecodeTiles[plan.tile];
    return std::to_string(tile.tokens) + (tile.quantizes ? "q" : "");
  }
  const Tile& tile = kTiles[plan.tile];
  return times(tile.m, tile.n) + "x" + std::to_string(tile.k);
}

}  // namespace

std::string name(const Plan& plan) {
  constexpr const char* kNames[] = {"mma:", "wgmma:", "decode:"};  // by kernel
  return kNames[int(plan.kernel)] + tile_name(plan) + ":" + std::to_string(plan.splits);
}

Plan planned(int64_t M, int64_t N, int64_t K, const Gpu& gpu, bool from_float) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (asked_for) {
    if (is_possible(*asked_for, M, N, K, gpu, from_float)) return *asked_for;
    throw std::runtime_error(
        "the plan " + name(*asked_for) + " that was asked for is not possible for " +
        (from_float ? "int8_linear" : "int8_matmul") + " of M, N, K = " + std::to_string(M) + ", " +
        std::to_string(N) + ", " + std::to_string(K) + " on sm_" + std::to_string(gpu.arch));
  }
  const Product product{M,
                        N,
                        K,
                        gpu.arch,
                        gpu.sm_count,
                        gpu.shared_limit,
                        gpu.memory,
                        gpu.has_sm90a,
                        gpu.overlaps,
                        from_float};
  const auto found = chosen.find(product);
  if (found != chosen.end()) return found->second;
  if (chosen.size() >= kMostKept) chosen.clear();
  return chosen[product] = choose(M, N, K, gpu, from_float);
}

void ask_for_plan(std::optional<Plan> plan) {
  const std::lock_guard<std::mutex> lock(mutex);
  asked_for = plan;
}

std::optional<Plan> plan_asked_for() {
  const std::lock_guard<std::mutex> lock(mutex);
  return asked_for;
}

void set_measured_plans(std::vector<MeasuredPlan> plans) {
  const std::lock_guard<std::mutex> lock(mutex);
  measured = std::move(plans);
  chosen.clear();
}

}  // namespace green_kernels
