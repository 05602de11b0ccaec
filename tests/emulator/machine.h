// What runs: a grid of clusters of blocks of warps, and the dice that decide who goes next.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "clock.h"
#include "grid_order.h"
#include "program.h"
#include "shared_memory.h"

namespace emulator {

constexpr int kLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffff;

class Warp;
struct Block;
struct Cluster;
struct Machine;

template <typename F>
void for_lanes(uint32_t mask, F&& f) {
  if (mask == kAllLanes) {
    for (int lane = 0; lane < kLanes; ++lane) f(lane);
  } else {
    for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
  }
}

inline int first_lane(uint32_t mask) { return __builtin_ctz(mask); }

// What lanes wait for. `ready` is asked again and again; `then` runs once, when they go on.
struct Wait {
  std::function<bool()> ready;
  std::function<void()> then;
  std::string what;  // "barrier 0, 64 of 128 threads have arrived"
};

// Lanes of a warp that are at one place.
struct Split {
  int pc = 0;
  uint32_t mask = 0;
  int join = -1;  // of Warp::joins, where they are to meet others
  std::optional<Wait> wait;
  bool rendezvous = false;  // whether they wait, before pc, for lanes of a .sync instruction
  uint32_t here = 0;        // and which of them have come to execute it
  uint32_t sync_mask = 0;   // the lanes that it names
};

// A place where lanes that diverged wait for each other.
struct Join {
  int pc;
  uint32_t expected, arrived;
  int outer;
};

struct AsyncOperation;
using AsyncPointer = std::shared_ptr<AsyncOperation>;

// Asynchronous copies of one lane: those since its last commit, and the groups it committed.
struct CopyGroups {
  std::vector<AsyncPointer> open;
  std::deque<std::vector<AsyncPointer>> committed;
};

struct WgmmaOfWarp;       // wgmma.cpp
struct WgmmaOfWarpgroup;  // wgmma.cpp

class Warp {
 public:
  Warp(Block& block, int index, uint32_t lanes);

  // The 32 lanes' values of a slot, each in the low bits of its 64. What is above is undefined.
  uint64_t* lanes(int slot) {
    if (slot < 0) emulator::fail("has an operand of a wrong kind");
    return registers.data() + size_t(slot) * kLanes;
  }
  uint64_t* lanes(const Operand& value) { return lanes(value.slot); }

  // Fails with the place and the text of the current instruction before `message`.
  [[noreturn]] void fail(const std::string& message, int lane = -1);

  // Executes instructions of `split` until `quantum` of them are done, or it has to wait.
  void execute(Split& split, int quantum);

  // A split of these that may go on now, at random, or null. Lets waits that are over end.
  Split* choose_ready();

  // Parts the current lanes: those that `jump` go to the instruction's target.
  void diverge(uint32_t jump);

  // Ends the current lanes. Fails if they leave asynchronous work behind.
  void exit_lanes();

  // For instructions that name the lanes which execute them together (.sync), by masks that may
  // differ: whether those of one mask are all here, and made the active ones. If not, they stop
  // before the instruction until they are. Lanes of other masks go their own way up to the next.
  bool gather(const Operand& mask);

  std::string place(int lane = -1) const;  // "kernel k, block 0,0,0, warp 1: PTX line 7 (k.cu:3)"

  // Stops the current lanes until `wait` is ready; they go on after the current instruction.
  void block_on(Wait wait) { split->wait = std::move(wait); }

  // A lane's present. What lanes do after a release, a barrier or a fence is of a later one.
  Epoch now(int lane) const {
    return lane == kWholeWarp ? Epoch{actor, times[0]} : Epoch{actor + lane, times[lane]};
  }
  void show(uint32_t lanes, Clock& to) const;  // what these lanes know and have done
  void advance(uint32_t lanes);

  uint32_t thread(int lane) const { return uint32_t(index) * kLanes + lane; }  // in its block
  int warpgroup() const { return index / 4; }

  Block& block;
  const int index;  // in its block
  const int actor;  // of lane 0, in its cluster's clocks; the others follow
  uint32_t live;    // lanes that have not exited
  Clock clock;      // what happened before now, as far as this warp has synchronised
  Clock fenced;     // what a proxy fence has made visible to asynchronous reads
  std::array<uint32_t, kLanes> times;  // of the lanes' threads
  std::vector<uint64_t> registers;
  std::vector<uint8_t> local;  // of all lanes, one after the other

  // Of the instruction that is being executed:
  Split* split = nullptr;
  uint32_t active = 0;  // its lanes whose guard holds
  const Instruction* instruction = nullptr;

  std::list<Split> splits;
  std::vector<Join> joins;

  std::array<CopyGroups, kLanes> copies, bulk_copies;
  uint32_t carry = 0;  // CC.CF, a bit of each lane

  // Registers that a wgmma has in hand until it is waited for: by slot, its line in the PTX where
  // it writes the register too, and minus its line where it only reads it. The executor lets no
  // other instruction touch the former or write the latter.
  std::vector<int> busy;
  int busy_count = 0;          // of them, those that are not 0
  bool wgmma_unfenced = true;  // a register of some wgmma was used since the last wgmma.fence
  std::shared_ptr<WgmmaOfWarp> wgmma;
  uint64_t cluster_generation = 0;  // of the cluster's barrier, which it waits for
  int max_registers = 0;            // as setmaxnreg says; 0 before
  uint32_t waited_for_grid = 0;     // lanes, by griddepcontrol.wait

 private:
  void step(Split& split, uint32_t mask);
  bool meets(Split& split);
  void check_busy() const;
  void check_exit();
  void trace(const Instruction& done, uint32_t mask);
  Split* gathered(Split& parked);
  void drop(const Split& split);
  bool stop_for(uint32_t lanes);
  void join_at(int pc);
};

struct Barrier {                       // bar, barrier: one of a block's sixteen, or a cluster's
  uint32_t expected = 0, arrived = 0;  // threads
  bool for_all = false;                // expects all threads that have not exited
  uint64_t generation = 0;
  uint32_t votes = 0, denials = 0;  // of bar.red: threads whose predicate held, and did not
  uint32_t released_votes = 0, released_denials = 0;
  Clock clock, fenced;              // of those that have arrived
  Clock released, released_fenced;  // of the generation before
};

struct Mbarrier {
  uint32_t expected = 0, pending = 0;
  int64_t transactions = 0;  // bytes
  uint64_t phase = 0;        // completed phases
  int unwatched = 0;         // line of a copy that has arrived, and for which nobody has waited
  int actor = -1;            // in the cluster's clocks; asynchronous writes are ordered by it
  Clock clock, fenced;       // of the arrivals up to now
  Clock released, released_fenced;  // of the phases completed
  Epoch initialised;
  bool fenced_init = false;  // shown to the async proxy
  int init_line = 0;
};

struct Block {
  Block(Cluster& cluster, int rank, std::array<uint32_t, 3> index);

  Cluster& cluster;
  const int rank;  // in its cluster
  const std::array<uint32_t, 3> index;
  SharedMemory shared;
  std::vector<std::unique_ptr<Warp>> warps;
  size_t exited = 0;      // warps
  Clock known_to_exited;  // to any of them
  struct Visit {
    uint32_t time;
    int line;
  };
  std::map<int, Visit> visits;  // the last access to `shared` of each warp of another block
  std::array<Barrier, 16> barriers;
  int free_registers = -1;  // that setmaxnreg may hand out; -1 before it is asked for
  std::map<uint32_t, Mbarrier> mbarriers;                  // by offset in shared memory
  std::map<int, std::shared_ptr<WgmmaOfWarpgroup>> wgmma;  // by warpgroup
};

struct Cluster {
  Cluster(Machine& machine, std::array<uint32_t, 3> first_block);
  int new_actors(int count) { return (actors += count) - count; }

  Machine& machine;
  std::vector<std::unique_ptr<Block>> blocks;
  Barrier barrier;
  int actors = 0;
  std::vector<AsyncPointer> in_flight;  // asynchronous operations that have not taken effect
  std::vector<Epoch> grid_waits;        // griddepcontrol.wait, of each thread
};

// What a kernel is launched with.
struct Launch {
  std::shared_ptr<const Program> program;
  std::array<uint32_t, 3> grid{1, 1, 1}, block{1, 1, 1}, cluster{1, 1, 1};
  uint32_t dynamic_shared = 0;
  bool overlaps = false;            // may begin before the launch before it has ended
  std::vector<uint8_t> parameters;  // as the program lays them out
};

// Lanes of a warp have exited: barriers for all threads wait for them no more. (barrier.cpp)
void leave_barriers(Warp& warp, uint32_t lanes);

// "PTX line 7 (k.cu:3): add.s32 ..", of the program's instruction.
std::string described(const Program& program, const Instruction& instruction);

// How much a source line moved. (CUDA C++ Programming Guide, "Shared Memory": 32 banks of 4 bytes;
// "Device Memory Accesses": 32-byte sectors.)
struct Traffic {
  uint64_t requests = 0;    // instructions of a warp
  uint64_t bytes = 0;       // that lanes asked for
  uint64_t wavefronts = 0;  // passes through the banks that shared memory took,
  uint64_t least = 0;       // and would have taken without conflicts
  uint64_t sectors = 0;     // of global memory that were touched
};

struct Options {
  uint64_t seed = 0;
  uint64_t max_instructions = 1'000'000'000;  // of warps; more is reported as a hang
  std::string trace;                          // "block:warp" to print, or empty
};

struct Machine {
  explicit Machine(const Options& options);

  // Runs a grid to its end. Fails with what the kernel did wrong.
  void run(const Launch& launch);
  void collect_traffic();

  uint64_t random(uint64_t below) { return dice() % below; }
  Traffic& traffic_of(const Warp& warp, bool is_global);  // of the current instruction
  bool chance(double probability) { return double(dice() >> 11) * 0x1p-53 < probability; }

  Options options;
  std::mt19937_64 dice;
  double eagerness = 0.5;  // with which asynchronous operations take effect before they must
  const Launch* launch = nullptr;
  const GlobalAccesses* before = nullptr;  // of grids that may be at work; null where none is
  GlobalAccesses* accesses = nullptr;      // of this one, where somebody asks
  std::vector<std::array<Traffic, 2>> traffic_by_pc;  // of shared and of global memory
  uint64_t executed = 0;                              // instructions of warps
  std::map<std::tuple<std::string, int, std::string>, Traffic> traffic;  // by file, line, kind
};

// A register's raw bits as a value of T, and back: through the unsigned integer of its size, which
// g++ vectorizes. Of a predicate only the lowest bit counts.
template <typename T>
using BitsOf =
    std::conditional_t<sizeof(T) == 1, uint8_t,
                       std::conditional_t<sizeof(T) == 2, uint16_t,
                                          std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>>;
template <typename T>
T as(uint64_t bits) {
  const BitsOf<T> word = BitsOf<T>(std::is_same_v<T, bool> ? bits & 1 : bits);
  T value;
  std::memcpy(&value, &word, sizeof(T));
  return value;
}
template <typename T>
uint64_t bits_of(T value) {
  BitsOf<T> word;
  std::memcpy(&word, &value, sizeof(T));
  return word;
}

}  // namespace emulator
