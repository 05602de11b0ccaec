// An opcode's modifiers, for whoever decodes it.
#include <algorithm>
#include <set>
#include <sstream>

#include "program.h"

namespace emulator {

Modifiers::Modifiers(const std::string& opcode) : opcode_(opcode) {
  for (size_t begin = 0; begin <= opcode.size();) {
    const size_t end = std::min(opcode.find('.', begin), opcode.size());
    left_.push_back(opcode.substr(begin, end - begin));
    begin = end + 1;
  }
  base_ = left_.front();
  left_.erase(left_.begin());
}

bool Modifiers::take(const std::string& name) {
  const auto found = std::find(left_.begin(), left_.end(), name);
  if (found == left_.end()) return false;
  left_.erase(found);
  return true;
}

void Modifiers::take_any(const std::string& names) {
  std::istringstream words(names);
  for (std::string name; words >> name;) take(name);
}

std::string Modifiers::take_one(const std::vector<std::string>& names, const char* otherwise) {
  for (const std::string& name : names)
    if (take(name)) return name;
  if (otherwise) return otherwise;
  std::string all;
  for (const std::string& name : names) all += " ." + name;
  fail("needs one of" + all);
}

std::string Modifiers::take_type() {
  static const std::set<std::string> types = {
      "pred", "b8",  "b16", "b32",   "b64",  "b128", "u8",     "u16",   "u32",
      "u64",  "s8",  "s16", "s32",   "s64",  "f16",  "f16x2",  "bf16",  "bf16x2",
      "tf32", "f32", "f64", "f32x2", "e4m3", "e5m2", "e4m3x2", "e5m2x2"};
  for (const std::string& name : left_)
    if (types.count(name)) {
      const std::string type = name;
      take(type);
      return type;
    }
  fail("needs a type");
}

std::string Modifiers::take_next() {
  if (left_.empty()) fail("lacks a modifier");
  const std::string next = left_.front();
  left_.erase(left_.begin());
  return next;
}

void expect_operands(const Instruction& instruction, size_t least, size_t most) {
  const size_t count = instruction.operands.size();
  if (count < least || count > most)
    fail("takes " + std::to_string(least) +
         (most > least ? " to " + std::to_string(most) : std::string()) + " operands, got " +
         std::to_string(count));
}

}  // namespace emulator
