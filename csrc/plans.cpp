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

// The chooser looks at some fifty plans, which takes longer than a launch; so what it chose is
// kept.
using Product = std::tuple<int64_t, int64_t, int64_t, int, int, int, int, bool, bool>;
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

}  // namespace

Plan planned(int64_t M, int64_t N, int64_t K, const Gpu& gpu, bool from_float) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (asked_for) {
    if (is_possible(*asked_for, M, N, K, gpu, from_float)) return *asked_for;
    throw std::runtime_error(
        "the plan that was asked for is not possible for M, N, K = " + std::to_string(M) + ", " +
        std::to_string(N) + ", " + std::to_string(K) + " on sm_" + std::to_string(gpu.arch));
  }
  const Product product{
      M, N, K, gpu.arch, gpu.sm_count, gpu.shared_limit, gpu.memory, gpu.has_sm90a, from_float};
  const auto found = chosen.find(product);
  if (found != chosen.end()) return found->second;
  if (chosen.size() >= kMostKept) chosen.clear();
  return chosen[product] = choose(M, N, K, gpu, from_float);
}

void ask_for_plan(std::optional<Plan> plan) {
  const std::lock_guard<std::mutex> lock(mutex);
  asked_for = plan;
}

void set_measured_plans(std::vector<MeasuredPlan> plans) {
  const std::lock_guard<std::mutex> lock(mutex);
  measured = std::move(plans);
  chosen.clear();
}

}  // namespace green_kernels
