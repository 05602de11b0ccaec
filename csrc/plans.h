// The plan of a product: the one that was asked for, else one that was measured, else the
// chooser's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cuda/int8_matmul_plan.h"

namespace green_kernels {

// A plan that measured faster than the chooser's, on one kind of GPU.
struct MeasuredPlan {
  int arch, sm_count, memory;  // as Gpu has them
  int64_t first_M, last_M, N, K;
  bool from_float;
  Plan plan;
};

// kernel:tile:splits, as "wgmma:128x256x2:1" and "decode:8q:4": q where it quantizes.
std::string name(const Plan& plan);

// Throws std::runtime_error where the plan that was asked for is not possible.
Plan planned(int64_t M, int64_t N, int64_t K, const Gpu& gpu, bool from_float);

// Of every product from now on; none for the chooser's.
void ask_for_plan(std::optional<Plan> plan);
std::optional<Plan> plan_asked_for();

// In the place of those before. The first that fits counts.
void set_measured_plans(std::vector<MeasuredPlan> plans);

}  // namespace green_kernels
