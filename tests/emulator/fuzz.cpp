// Mangles PTX, builds what is left of its kernels and runs them: each must end well or in an Error.
//
//     fuzz SEED COUNT FILE..     COUNT times, the n-th with the seed SEED + n; prints what came out
//     fuzz SEED 0 FILE..         each kernel as it is; prints how it ended
//
// Whatever else happens kills the process, after words on which seed did it. With a count of 1 the
// mangled text is printed too, so that a failure is shown by its own seed and a count of 1.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "machine.h"
#include "memory.h"
#include "tensor_map.h"

// Sanitizers abort, for the handler below to say which seed it was. No kernel of the corpus needs
// so much memory: an allocation of this size comes of a number in the text.
extern "C" const char* __asan_default_options() {
  return "abort_on_error=1:max_allocation_size_mb=600";
}
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace emulator {
namespace {

constexpr unsigned kSeconds = 20;  // for one iteration, which takes some milliseconds

uint64_t running = 0;  // the seed of the iteration

// Of SIGALRM and SIGABRT.
void tell_seed(int signal) {
  char text[80];
  const int size = std::snprintf(text, sizeof text, "fuzz: seed %llu %s\n",
                                 static_cast<unsigned long long>(running),
                                 signal == SIGALRM ? "takes too long" : "failed");
  _exit(write(STDERR_FILENO, text, size_t(size)) == size ? 3 : 4);
}

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  uint64_t below(uint64_t count) { return engine_() % count; }
  bool one_in(uint64_t count) { return below(count) == 0; }
  template <typename Values>
  const auto& one_of(const Values& values) {
    return values[below(std::size(values))];
  }
  uint64_t bits() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

using Texts = std::vector<std::string>;

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
         c == '.';
}

// A line as words ("L1::evict_last" is one), and what is between them as single characters.
Texts pieces_of(const std::string& line) {
  Texts pieces;
  for (size_t begin = 0, end; begin < line.size(); begin = end) {
    end = begin + 1;
    if (is_word(line[begin]))
      while (end < line.size() && (is_word(line[end]) || line.compare(end, 2, "::") == 0))
        end += line[end] == ':' ? 2 : 1;
    pieces.push_back(line.substr(begin, end - begin));
  }
  return pieces;
}

std::string joined(const Texts& pieces, const char* separator) {
  std::string text;
  for (const std::string& piece : pieces) text += piece + separator;
  return text;
}

// A kernel with what its module has around it, but without the other kernels.
struct Kernel {
  std::string name;
  Texts lines;
  Texts names;  // its registers, labels and variables
};

struct Corpus {
  std::vector<Kernel> kernels;
  Texts opcodes, modifiers;  // each once

  void add(const std::string& path);
  void collect_words();
};

void Corpus::add(const std::string& path) {
  std::ifstream file(path);
  if (!file) fail("cannot read " + path);
  Texts around;
  std::vector<Texts> entries;
  bool within = false;
  int depth = 0;
  for (std::string line; std::getline(file, line);) {
    if (!within && line.find(".entry") != std::string::npos) {
      within = true;
      entries.emplace_back();
    }
    (within ? entries.back() : around).push_back(line);
    const auto opened = std::count(line.begin(), line.end(), '{');
    const auto closed = std::count(line.begin(), line.end(), '}');
    depth += int(opened - closed);
    if (closed > 0 && depth == 0) within = false;
  }
  // A kernel's functions come before it, its debug sections may come behind.
  for (const Texts& entry : entries) {
    Kernel kernel;
    kernel.lines = around;
    kernel.lines.insert(kernel.lines.end(), entry.begin(), entry.end());
    for (const auto& [name, function] : parse(joined(kernel.lines, "\n")).functions)
      if (function.is_entry) kernel.name = name;
    kernels.push_back(std::move(kernel));
  }
}

void Corpus::collect_words() {
  std::map<std::string, bool> all_opcodes, all_modifiers;
  for (Kernel& kernel : kernels) {
    std::map<std::string, bool> names;
    for (const std::string& line : kernel.lines)
      for (const std::string& word : pieces_of(line)) {
        if (word.size() < 2 || std::isdigit(static_cast<unsigned char>(word[0]))) continue;
        const size_t dot = word.find('.');
        if (dot == std::string::npos || word[0] == '%' || word[0] == '$') {
          names[word];
        } else if (dot > 0) {
          all_opcodes[word];
          for (size_t at = dot; at != std::string::npos;) {
            const size_t next = word.find('.', at + 1);
            all_modifiers[word.substr(at, next == std::string::npos ? next : next - at)];
            at = next;
          }
        }
      }
    for (const auto& [name, unused] : names) kernel.names.push_back(name);
  }
  for (const auto& [word, unused] : all_opcodes) opcodes.push_back(word);
  for (const auto& [word, unused] : all_modifiers) modifiers.push_back(word);
}

const Texts kNumbers = {"0",
                        "1",
                        "2",
                        "3",
                        "4",
                        "5",
                        "7",
                        "8",
                        "15",
                        "16",
                        "17",
                        "31",
                        "32",
                        "33",
                        "63",
                        "64",
                        "65",
                        "127",
                        "128",
                        "129",
                        "255",
                        "256",
                        "1023",
                        "1024",
                        "1025",
                        "2048",
                        "4096",
                        "65535",
                        "65536",
                        "1048576",
                        "16777215",
                        "16777216",
                        "1073741824",
                        "2147483647",
                        "2147483648",
                        "4294967295",
                        "4294967296",
                        "9223372036854775807",
                        "9223372036854775808",
                        "18446744073709551615",
                        "99999999999999999999999",
                        "-1",
                        "-2",
                        "-128",
                        "-2147483648",
                        "-9223372036854775808",
                        "0x100000000000000",
                        "0x200000000000000",
                        "0x300000000000000",
                        "0x300000000100000",
                        "0x3ffffffffffffff",
                        "0f7FC00000",
                        "0f7F800000",
                        "0fFF800000",
                        "0f4F000000",
                        "0d7FF8000000000000",
                        "0dFFF0000000000000",
                        "0d43E0000000000000"};
const Texts kDirectives = {
    ".reg", ".shared", ".local", ".global", ".param", ".const",   ".extern",  ".entry", ".func",
    ".loc", ".file",   ".align", ".v2",     ".v4",    ".maxntid", ".reqntid", ".b8",    ".b16",
    ".u32", ".b64",    ".b128",  ".f16",    ".f32",   ".f64",     ".pred",    ".f16x2"};
const Texts kMarks = {"{", "}", "[", "]", "(",  ")",  ";",  ",", ":", "+",  "-",  "|",  "!", "@",
                      "<", ">", "=", "_", "\"", "/*", "//", "%", ".", "0x", "\\", "\n", " "};

class Mangler {
 public:
  Mangler(const Corpus& corpus, const Kernel& kernel, Dice& dice)
      : corpus_(corpus), kernel_(kernel), dice_(dice), lines_(kernel.lines) {}

  std::string text() {
    // Mostly little, for a kernel that is wrong in many places fails at the first.
    do {
      if (lines_.empty()) break;
      change();
    } while (dice_.one_in(2));
    std::string text = joined(lines_, "\n");
    if (dice_.one_in(50)) text.resize(dice_.below(text.size() + 1));
    return text;
  }

 private:
  // The longest of a few, for what is special about a kernel has many operands or modifiers.
  size_t line() {
    size_t best = dice_.below(lines_.size());
    for (uint64_t more = dice_.below(4); more > 0; --more) {
      const size_t other = dice_.below(lines_.size());
      if (lines_[other].size() > lines_[best].size()) best = other;
    }
    return best;
  }
  void insert(size_t at, const std::string& text) { lines_.insert(lines_.begin() + at, text); }

  void change() {
    const size_t at = line();
    switch (dice_.below(40)) {
      case 0:
        lines_.erase(lines_.begin() + at);
        break;
      case 1:
        insert(line(), std::string(lines_[at]));
        break;
      case 2:
        std::swap(lines_[at], lines_[line()]);
        break;
      case 3:
        insert(at, std::string(dice_.one_of(dice_.one_of(corpus_.kernels).lines)));
        break;
      case 4:
        nest(at);
        break;
      case 5:
        change_character(lines_[at]);
        break;
      case 6:
      case 7:
        change_syntax(lines_[at]);
        break;
      default:
        change_word(lines_[at]);
    }
  }

  void nest(size_t at) {
    const size_t deep = dice_.one_in(4) ? dice_.below(100000) : 1 + dice_.below(70);
    const char* const open = dice_.one_of(std::array<const char*, 3>{"{", "{", "("});
    std::string opened, closed;
    for (size_t i = 0; i < deep; ++i) opened += open, closed += *open == '{' ? "}" : ")";
    const size_t behind = std::min(lines_.size(), at + dice_.below(20));
    insert(behind, closed);
    insert(std::min(at, behind), opened);
  }

  void change_character(std::string& line) {
    if (line.empty()) return;
    const size_t at = dice_.below(line.size());
    if (dice_.one_in(2))
      line.erase(at, 1);
    else
      line[at] = char(dice_.one_in(4) ? dice_.below(256) : ' ' + dice_.below(95));
  }

  void change_syntax(std::string& line) {
    Texts pieces = pieces_of(line);
    if (pieces.empty()) return;
    const size_t at = dice_.below(pieces.size());
    switch (dice_.below(4)) {
      case 0:
        pieces.erase(pieces.begin() + at);
        break;
      case 1:
        pieces.insert(pieces.begin() + at, std::string(pieces[at]));
        break;
      case 2:
        std::swap(pieces[at], pieces[dice_.below(pieces.size())]);
        break;
      default:
        pieces[at] = dice_.one_of(kMarks);
    }
    line = joined(pieces, "");
  }

  // The parser understands most of these.
  void change_word(std::string& line) {
    Texts pieces = pieces_of(line);
    std::vector<size_t> words;
    for (size_t i = 0; i < pieces.size(); ++i)
      if (is_word(pieces[i][0])) words.push_back(i);
    if (words.empty()) return;
    const size_t at = words[dice_.one_in(3) ? 0 : dice_.below(words.size())];
    const std::string other = dice_.one_of(kernel_.names), number = dice_.one_of(kNumbers);
    const bool is_operand = at > words[0] && pieces[at][0] != '.';
    switch (is_operand ? dice_.below(20) : ~0u) {
      case 0:  // an operand more, or less
        pieces[at] += ", " + other;
        break;
      case 1:
        for (size_t comma = at; comma < pieces.size() && comma < at + 4; ++comma)
          if (pieces[comma] == ",") pieces[comma] = pieces[at] = "";
        break;
      case 2:
        pieces[at] = dice_.one_in(2) ? "{" + other + ", " + pieces[at] + "}" : "{}";
        break;
      case 3:
        pieces[at] = dice_.one_in(2) ? "[" + other + "+" + number + "]" : "[" + number + "]";
        break;
      case 4:
        pieces[at] = dice_.one_in(2) ? "_" : "!" + pieces[at];
        break;
      case 5:
        pieces[at] += (dice_.one_in(2) ? "|" : "+") + other;
        break;
      case 6:
        std::swap(pieces[at], pieces[dice_.one_of(words)]);
        break;
      default:
        pieces[at] = instead_of(pieces[at]);
    }
    line = joined(pieces, "");
  }

  std::string instead_of(const std::string& piece) {
    if (std::isdigit(static_cast<unsigned char>(piece[0])))
      return dice_.one_in(4) ? std::to_string(dice_.below(300)) : dice_.one_of(kNumbers);
    if (piece[0] == '%' || piece.find('.') == std::string::npos) {
      if (dice_.one_in(4)) return dice_.one_of(kNumbers);
      return dice_.one_of(kernel_.names);
    }
    if (piece[0] == '.') return dice_.one_of(kDirectives);
    if (dice_.one_in(3)) return dice_.one_of(corpus_.opcodes);
    // One of the modifiers: another instead of it, one more, or one less.
    std::vector<size_t> dots;
    for (size_t i = 0; i < piece.size(); ++i)
      if (piece[i] == '.') dots.push_back(i);
    const size_t dot = dice_.one_of(dots), end = std::min(piece.find('.', dot + 1), piece.size());
    const bool keeps = dice_.one_in(4), adds = !dice_.one_in(4);
    return piece.substr(0, keeps ? end : dot) + (adds ? dice_.one_of(corpus_.modifiers) : "") +
           piece.substr(end);
  }

  const Corpus& corpus_;
  const Kernel& kernel_;
  Dice& dice_;
  Texts lines_;
};

// What kernels may touch; the rest of the process's memory they may not.
struct Memory {
  static constexpr size_t kBytes = 1 << 18;  // a snippet of wgmma uses 136 KiB

  Memory() {
    // Exact, so that the sanitizer knows where they end.
    for (size_t i = 0; i < 3; ++i) {
      pieces[i] = static_cast<uint8_t*>(std::aligned_alloc(256, kBytes));
      register_buffer(pieces[i], kBytes, i != 2);
    }
  }
  ~Memory() {
    for (uint8_t* const piece : pieces) {
      unregister_buffer(piece);
      std::free(piece);
    }
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void fill(Dice& dice) {
    for (uint8_t* const piece : pieces)
      for (size_t i = 0; i < kBytes; i += 8) {
        // Numbers that instructions treat in ways of their own, among others.
        const uint64_t bits = dice.bits();
        const uint64_t value = bits % 4 == 0 ? bits >> (bits >> 2) % 64 : bits % 4 == 1 ? 0 : bits;
        std::memcpy(piece + i, &value, 8);
      }
  }

  std::array<uint8_t*, 3> pieces;
};

uint64_t argument(Dice& dice, const Memory& memory, size_t which) {
  const uint64_t address = reinterpret_cast<uint64_t>(memory.pieces[which % 3]);
  switch (dice.below(20)) {
    case 0:
      return 0;
    case 1:
      return dice.bits();
    case 2:
      return dice.below(4096) - 16;
    case 3:
      return dice.below(100) << 32 | dice.below(100);  // two numbers of 32 bits
    case 4:
      return address + dice.below(Memory::kBytes + 64);
    case 5:
      return reinterpret_cast<uint64_t>(dice.one_of(memory.pieces));
    default:
      return address;
  }
}

void put_tensor_map(uint8_t* to, Dice& dice, const Memory& memory) {
  constexpr uint32_t kSwizzles = 4, kTypes = 13;
  const uint32_t rank = 1 + uint32_t(dice.below(5));
  std::array<uint64_t, 5> sizes, strides;
  std::array<uint32_t, 5> box, steps;
  uint64_t stride = 256;
  for (int i = 0; i < 5; ++i) {
    sizes[i] = 1 + dice.below(i ? 8 : 256);
    strides[i] = stride;
    stride *= i ? sizes[i] : sizes[1];
    box[i] = dice.one_of(std::array<uint32_t, 5>{1, 2, 16, 64, 128});
    steps[i] = 1;
  }
  TensorMap map{};
  const uint64_t address = reinterpret_cast<uint64_t>(dice.one_of(memory.pieces));
  encode_tiled(map, uint32_t(dice.below(kTypes)), rank, address, sizes.data(), strides.data(),
               box.data(), steps.data(), 0, uint32_t(dice.below(kSwizzles)), 0,
               uint32_t(dice.below(2)));
  std::memcpy(to, &map, sizeof map);
  if (dice.one_in(2)) to[8 + dice.below(sizeof map - 8)] = uint8_t(dice.bits());
}

Launch launch_of(const std::shared_ptr<const Program>& program, Dice& dice, const Memory& memory) {
  using Sizes = std::array<uint32_t, 3>;
  static const std::vector<Sizes> blocks = {{1, 1, 1},   {32, 1, 1},  {33, 1, 1}, {64, 1, 1},
                                            {128, 1, 1}, {256, 1, 1}, {7, 5, 3},  {384, 1, 1}};
  static const std::vector<Sizes> absurd = {{0, 1, 1},
                                            {1025, 1, 1},
                                            {1u << 31, 1, 1},
                                            {~0u, ~0u, ~0u},
                                            {1u << 31, 1u << 31, 4},
                                            {1u << 16, 1u << 16, 1}};
  Launch launch;
  launch.program = program;
  const std::vector<int>& required = program->required_threads;
  launch.block = dice.one_of(blocks);
  if (!required.empty() && !dice.one_in(4))
    for (size_t i = 0; i < 3; ++i)
      launch.block[i] = i < required.size() ? uint32_t(required[i]) : 1;
  const std::vector<int>& most = program->max_threads;
  if (!most.empty() && dice.one_in(2)) launch.block = {uint32_t(most[0]), 1, 1};
  if (dice.one_in(3)) launch.cluster = {2, 1, 1};
  for (size_t i = 0; i < program->required_cluster.size() && i < 3; ++i)
    launch.cluster[i] = uint32_t(program->required_cluster[i]);
  for (int i = 0; i < 3; ++i) launch.grid[i] = launch.cluster[i] * (1 + dice.one_in(4));
  launch.dynamic_shared =
      dice.one_of(std::array<uint32_t, 8>{0, 0, 16, 1024, 1024, 8192, 8192, 100000});
  if (dice.one_in(50)) launch.block = dice.one_of(absurd);
  if (dice.one_in(50)) launch.grid = dice.one_of(absurd);
  if (dice.one_in(50)) launch.grid = launch.cluster = dice.one_of(absurd);
  if (dice.one_in(50)) launch.dynamic_shared = ~uint32_t(dice.below(4096));

  launch.parameters.resize(program->parameter_bytes);
  for (size_t i = 0; i + 8 <= launch.parameters.size(); i += 8) {
    const uint64_t value = argument(dice, memory, i / 8);
    std::memcpy(&launch.parameters[i], &value, 8);
  }
  for (size_t i = 0; i < program->parameters.size(); ++i)
    if (program->parameters[i].elements == 128 && program->parameters[i].type == "b8")
      put_tensor_map(&launch.parameters[program->parameter_offsets[i]], dice, memory);
  return launch;
}

// Runs what a module has for kernels, and returns how it ended.
std::string outcome_of(const std::string& text, Dice& dice, Memory& memory) {
  constexpr uint64_t kInstructions = 1500;
  try {
    const Module module = parse(text);
    for (const auto& [name, function] : module.functions) {
      if (!function.is_entry) continue;
      const auto program = std::make_shared<const Program>(build(module, name));
      const Launch launch = launch_of(program, dice, memory);
      Options options;
      options.seed = dice.bits();
      options.max_instructions = kInstructions;
      Machine(options).run(launch);
    }
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Where it ended: nothing of the text's names, so that the like are counted together.
std::string kind_of(const std::string& outcome) {
  if (outcome.empty()) return "ended well";
  if (outcome.rfind("kernel ", 0) == 0) return "failed while it ran";
  return outcome.rfind("PTX line ", 0) == 0 ? "was not built" : "was not read or not launched";
}

void fuzz(const Corpus& corpus, uint64_t seed, uint64_t count) {
  std::map<std::string, uint64_t> kinds;
  Memory memory;
  for (running = seed; running < seed + count; ++running) {
    alarm(kSeconds);
    Dice dice(running);
    const Kernel& kernel = dice.one_of(corpus.kernels);
    const std::string text = Mangler(corpus, kernel, dice).text();
    if (count == 1) std::cout << text << std::endl;
    if (running % 16 == 0 || count == 1) memory.fill(dice);
    const std::string outcome = outcome_of(text, dice, memory);
    ++kinds[kind_of(outcome)];
    if (count == 1) std::cout << (outcome.empty() ? "ended well" : outcome) << "\n";
  }
  alarm(0);
  for (const auto& [kind, times] : kinds) std::cout << times << " " << kind << "\n";
}

// Each kernel unmangled, on zeros; "ok NAME", or the error.
void run_as_is(const Corpus& corpus) {
  Memory memory;
  for (const Kernel& kernel : corpus.kernels) {
    Launch launch;
    const auto program =
        std::make_shared<const Program>(build(parse(joined(kernel.lines, "\n")), kernel.name));
    launch.program = program;
    launch.parameters.resize(program->parameter_bytes);
    for (size_t i = 0; i < 2 && 8 * i + 8 <= launch.parameters.size(); ++i)
      std::memcpy(&launch.parameters[8 * i], &memory.pieces[i], 8);
    std::string error;
    for (const uint32_t threads : {32u, 128u}) {
      for (size_t i = 0; i < 2; ++i) std::memset(memory.pieces[i], 0, Memory::kBytes);
      launch.block = {threads, 1, 1};
      error.clear();
      try {
        Machine(Options()).run(launch);
        break;
      } catch (const Error& caught) {
        error = caught.what();
      }
    }
    std::cout << (error.empty() ? "ok " + kernel.name : error) << "\n";
  }
}

int main_of(int count, char** arguments) {
  if (count < 4) fail("fuzz SEED COUNT FILE..");
  Corpus corpus;
  for (int i = 3; i < count; ++i) corpus.add(arguments[i]);
  if (corpus.kernels.empty()) fail("there are no kernels in these files");
  corpus.collect_words();
  const uint64_t seed = std::stoull(arguments[1]), times = std::stoull(arguments[2]);
  if (times)
    fuzz(corpus, seed, times);
  else
    run_as_is(corpus);
  return 0;
}

}  // namespace
}  // namespace emulator

int main(int count, char** arguments) {
  std::signal(SIGALRM, emulator::tell_seed);
  std::signal(SIGABRT, emulator::tell_seed);
  try {
    return emulator::main_of(count, arguments);
  } catch (const std::exception& error) {
    std::cerr << "fuzz: " << error.what() << "\n";
    emulator::tell_seed(SIGABRT);
  }
}
