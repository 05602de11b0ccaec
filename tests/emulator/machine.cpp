// The scheduler: which clusters are on the machine, whose turn it is, for how long, and when what
// is asynchronous happens. Every choice is one of the dice, whose seed repeats it.
#include "machine.h"

#include <algorithm>
#include <numeric>

#include "async.h"
#include "memory.h"

namespace emulator {
namespace {

constexpr size_t kResidentClusters = 3;  // enough for blocks to be ahead and behind of each other

std::array<uint32_t, 3> index_in(uint64_t number, const std::array<uint32_t, 3>& sizes) {
  return {uint32_t(number % sizes[0]), uint32_t(number / sizes[0] % sizes[1]),
          uint32_t(number / sizes[0] / sizes[1])};
}

// At the most 2^64 - 1.
uint64_t product_of(const std::array<uint32_t, 3>& sizes) {
  uint64_t product = uint64_t(sizes[0]) * sizes[1];
  return __builtin_mul_overflow(product, uint64_t(sizes[2]), &product) ? UINT64_MAX : product;
}

// Fails where no GPU could launch it, or where it would need more memory than a test should.
void check_sizes(const Launch& launch) {
  constexpr uint64_t kThreads = 1024, kBlocks = 16, kClusters = 1 << 24;
  constexpr uint64_t kShared = 228 << 10, kCluster = 1 << 30;  // bytes
  const Program& program = *launch.program;
  const uint64_t threads = product_of(launch.block), blocks = product_of(launch.cluster);
  if (threads == 0 || threads > kThreads) fail("a block must have 1 to 1024 threads");
  if (blocks == 0 || blocks > kBlocks) fail("a cluster must have 1 to 16 blocks");
  std::array<uint32_t, 3> clusters;
  for (int i = 0; i < 3; ++i) {
    if (launch.grid[i] == 0 || launch.grid[i] % launch.cluster[i])
      fail("a grid must be a whole number of clusters, and not empty");
    clusters[i] = launch.grid[i] / launch.cluster[i];
  }
  if (product_of(clusters) > kClusters) fail("the grid is too big to be emulated");
  const uint64_t shared = uint64_t(program.static_shared_end) + launch.dynamic_shared;
  if (shared > kShared)
    fail(std::to_string(shared) + " bytes of shared memory, where no GPU has more than " +
         std::to_string(kShared));
  const uint64_t lane = 8 * uint64_t(program.slots) + program.local_bytes + program.frame_bytes;
  if (lane * threads * blocks > kCluster)
    fail("a cluster has more registers and local memory than can be emulated");
}

std::string hang_report(const std::vector<std::unique_ptr<Cluster>>& resident) {
  constexpr int kLines = 40;
  std::string text = "hang: nothing can go on\n";
  int lines = 0;
  for (const auto& cluster : resident)
    for (const auto& block : cluster->blocks)
      for (const auto& warp : block->warps)
        for (const Split& split : warp->splits) {
          if (++lines > kLines) return text + "  ..\n";
          // A split that waits is past its instruction, one in a rendezvous before it.
          const Program& program = *cluster->machine.launch->program;
          warp->instruction = &program.code[std::max(0, split.pc - (split.wait ? 1 : 0))];
          char lanes[16];
          std::snprintf(lanes, sizeof lanes, "%08x", split.mask);
          text += "  " + warp->place() + ": lanes " + lanes + " wait for " +
                  (split.wait ? split.wait->what
                              : std::string("lanes that must execute it with them")) +
                  "\n";
        }
  return text;
}

// Of a cluster whose warps have all exited: barriers that are half way, copies still under way.
void check_end(Cluster& cluster) {
  while (!cluster.in_flight.empty()) take_effect(*cluster.in_flight.back());
  for (const auto& block : cluster.blocks) {
    const std::string where = "block " + std::to_string(block->index[0]) + "," +
                              std::to_string(block->index[1]) + "," +
                              std::to_string(block->index[2]) + " has ended, and ";
    for (size_t i = 0; i < block->barriers.size(); ++i)
      if (block->barriers[i].arrived)
        fail(where + "barrier " + std::to_string(i) + " has " +
             std::to_string(block->barriers[i].arrived) + " arrivals that nobody waited for");
    for (const auto& [offset, mbarrier] : block->mbarriers) {
      if (mbarrier.unwatched)
        fail(where + "nobody has waited for the copy of PTX line " +
             std::to_string(mbarrier.unwatched));
      if (mbarrier.transactions != 0 || mbarrier.pending != mbarrier.expected)
        fail(where + "the mbarrier of PTX line " + std::to_string(mbarrier.init_line) +
             " is left in mid-phase: " + std::to_string(mbarrier.pending) + " of " +
             std::to_string(mbarrier.expected) + " arrivals and " +
             std::to_string(mbarrier.transactions) + " bytes pending");
    }
  }
}

}  // namespace

Block::Block(Cluster& cluster, int rank, std::array<uint32_t, 3> index)
    : cluster(cluster),
      rank(rank),
      index(index),
      shared(cluster.machine.launch->program->static_shared_end +
             cluster.machine.launch->dynamic_shared) {
  const uint32_t threads = uint32_t(product_of(cluster.machine.launch->block));
  for (uint32_t first = 0; first < threads; first += kLanes) {
    const uint32_t count = std::min<uint32_t>(kLanes, threads - first);
    warps.push_back(std::make_unique<Warp>(*this, int(first / kLanes),
                                           count == kLanes ? kAllLanes : (1u << count) - 1));
  }
}

Cluster::Cluster(Machine& machine, std::array<uint32_t, 3> first_block) : machine(machine) {
  const auto& sizes = machine.launch->cluster;
  for (uint64_t rank = 0; rank < product_of(sizes); ++rank) {
    const auto within = index_in(rank, sizes);
    blocks.push_back(std::make_unique<Block>(
        *this, int(rank),
        std::array<uint32_t, 3>{first_block[0] + within[0], first_block[1] + within[1],
                                first_block[2] + within[2]}));
  }
}

Machine::Machine(const Options& options) : options(options), dice(options.seed) {
  // Asynchronous work that is always late, often late, often early or always early.
  constexpr double kEagerness[] = {0.0, 0.1, 0.7, 1.0};
  eagerness = kEagerness[random(4)];
}

void Machine::run(const Launch& to_run) {
  launch = &to_run;
  const Program& program = *to_run.program;
  check_sizes(to_run);
  std::array<uint32_t, 3> clusters;
  for (int i = 0; i < 3; ++i) clusters[i] = to_run.grid[i] / to_run.cluster[i];
  if (to_run.parameters.size() != size_t(program.parameter_bytes))
    fail("the kernel takes " + std::to_string(program.parameter_bytes) +
         " bytes of parameters, got " + std::to_string(to_run.parameters.size()));
  traffic_by_pc.assign(program.code.size(), {});
  executed = 0;

  std::vector<uint64_t> waiting(product_of(clusters));
  std::iota(waiting.begin(), waiting.end(), 0);
  std::shuffle(waiting.begin(), waiting.end(), dice);
  const size_t most = 1 + random(kResidentClusters);
  std::vector<std::unique_ptr<Cluster>> resident;
  std::vector<Warp*> warps;
  const auto admit = [&] {
    while (resident.size() < most && !waiting.empty()) {
      auto first = index_in(waiting.back(), clusters);
      waiting.pop_back();
      for (int i = 0; i < 3; ++i) first[i] *= to_run.cluster[i];
      resident.push_back(std::make_unique<Cluster>(*this, first));
      for (const auto& block : resident.back()->blocks)
        for (const auto& warp : block->warps) warps.push_back(warp.get());
    }
  };
  const auto effect_at_random = [&] {
    Cluster& cluster = *resident[random(resident.size())];
    if (cluster.in_flight.empty()) return false;
    // A copy: the effect removes it from the list.
    const AsyncPointer chosen = cluster.in_flight[random(cluster.in_flight.size())];
    take_effect(*chosen);
    return true;
  };

  for (admit(); !resident.empty(); admit()) {
    if (chance(eagerness)) effect_at_random();
    bool moved = false;
    for (size_t i = 0, first = random(warps.size()); i < warps.size() && !moved; ++i) {
      Warp& warp = *warps[(first + i) % warps.size()];
      Split* const split = warp.choose_ready();
      if (!split) continue;
      moved = true;
      warp.execute(*split, int(1 + random(uint64_t(1) << random(10))));
      if (warp.live == 0) {
        warps.erase(std::find(warps.begin(), warps.end(), &warp));
        Cluster& cluster = warp.block.cluster;
        const bool is_over = std::none_of(warps.begin(), warps.end(), [&](Warp* other) {
          return &other->block.cluster == &cluster;
        });
        if (is_over) {
          check_end(cluster);
          resident.erase(std::find_if(resident.begin(), resident.end(),
                                      [&](const auto& other) { return other.get() == &cluster; }));
        }
      }
    }
    if (moved) continue;
    bool in_flight = false;
    for (const auto& cluster : resident) in_flight |= !cluster->in_flight.empty();
    if (!in_flight) fail(hang_report(resident));
    while (!effect_at_random()) {
    }
  }
  collect_traffic();
}

Traffic& Machine::traffic_of(const Warp& warp, bool is_global) {
  return traffic_by_pc[warp.instruction - launch->program->code.data()][is_global];
}

void Machine::collect_traffic() {
  const Program& program = *launch->program;
  for (size_t pc = 0; pc < traffic_by_pc.size(); ++pc)
    for (const bool is_global : {false, true}) {
      const Traffic& from = traffic_by_pc[pc][is_global];
      if (!from.requests) continue;
      const Location& at = program.code[pc].at;
      const auto file = program.files.find(at.source_file);
      const std::string& text = program.code[pc].text;
      const size_t opcode = text[0] == '@' ? text.find(' ') + 1 : 0;
      Traffic& to = traffic[{file == program.files.end() ? "" : file->second, at.source_line,
                             (is_global ? "global " : "shared ") +
                                 text.substr(opcode, text.find(' ', opcode) - opcode)}];
      to.requests += from.requests;
      to.bytes += from.bytes;
      to.wavefronts += from.wavefronts;
      to.least += from.least;
      to.sectors += from.sectors;
    }
}

}  // namespace emulator
