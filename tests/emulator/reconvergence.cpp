// Lanes that a branch parts meet again at its immediate post-dominator: the first instruction
// that all ways to the end pass, as ptxas has them do. Found on the reversed graph by the
// algorithm of Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm".
#include <algorithm>

#include "program.h"

namespace emulator {
namespace {

std::vector<int> successors(const std::vector<Instruction>& code, int i) {
  const Instruction& at = code[i];
  std::vector<int> next;
  if (at.flow == Instruction::Flow::kBranch) next.push_back(at.target);
  if (at.flow == Instruction::Flow::kNext || at.guard >= 0) next.push_back(i + 1);
  const int end = int(code.size());
  for (int& successor : next) successor = std::min(successor, end);
  if (next.empty()) next.push_back(end);
  return next;
}

}  // namespace

void find_meetings(std::vector<Instruction>& code) {
  const int end = int(code.size());
  std::vector<std::vector<int>> next(end + 1), previous(end + 1);
  for (int i = 0; i < end; ++i)
    for (const int successor : next[i] = successors(code, i)) previous[successor].push_back(i);

  std::vector<int> order, rank(end + 1, -1), state(end + 1);  // postorder from the end, backwards
  std::vector<int> stack = {end};
  rank[end] = 0;
  while (!stack.empty()) {
    const int at = stack.back();
    if (state[at] < int(previous[at].size())) {
      const int before = previous[at][state[at]++];
      if (rank[before] < 0) rank[before] = 0, stack.push_back(before);
    } else {
      rank[at] = int(order.size());
      order.push_back(at);
      stack.pop_back();
    }
  }
  std::vector<int> dominator(end + 1, -1);
  dominator[end] = end;
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = order.size(); i-- > 0;) {
      const int at = order[i];
      if (at == end) continue;
      int meeting = -1;
      for (int other : next[at]) {
        if (dominator[other] < 0) continue;
        if (meeting < 0) {
          meeting = other;
          continue;
        }
        while (meeting != other) {
          while (rank[meeting] < rank[other]) meeting = dominator[meeting];
          while (rank[other] < rank[meeting]) other = dominator[other];
        }
      }
      if (dominator[at] != meeting) dominator[at] = meeting, changed = true;
    }
  }
  for (int i = 0; i < end; ++i) {
    Instruction& at = code[i];
    if (at.flow != Instruction::Flow::kBranch || at.guard < 0) continue;
    if (dominator[i] >= 0 && dominator[i] < end) at.meeting = dominator[i];
  }
}

}  // namespace emulator
