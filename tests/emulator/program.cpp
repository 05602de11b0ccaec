// From a tree of names to instructions: scopes, inlined calls, decoding.
#include "program.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <unordered_map>

#include "memory.h"

namespace emulator {
namespace {

const Decoders& decoders() {
  static const Decoders all = [] {
    Decoders decoders;
    add_arithmetic_decoders(decoders);
    add_bit_decoders(decoders);
    add_compare_decoders(decoders);
    add_convert_decoders(decoders);
    add_memory_decoders(decoders);
    add_control_decoders(decoders);
    add_warp_decoders(decoders);
    add_barrier_decoders(decoders);
    add_mbarrier_decoders(decoders);
    add_async_decoders(decoders);
    add_matrix_decoders(decoders);
    add_wgmma_decoders(decoders);
    return decoders;
  }();
  return all;
}

// Registers that the machine fills in; a name that is not among them is an error.
bool is_special(const std::string& name) {
  static const std::set<std::string> dimensions = {
      "%tid",       "%ntid",       "%ctaid",         "%nctaid",
      "%clusterid", "%nclusterid", "%cluster_ctaid", "%cluster_nctaid"};
  static const std::set<std::string> singles = {"%laneid",
                                                "%warpid",
                                                "%nwarpid",
                                                "%smid",
                                                "%nsmid",
                                                "%gridid",
                                                "%lanemask_eq",
                                                "%lanemask_lt",
                                                "%lanemask_le",
                                                "%lanemask_gt",
                                                "%lanemask_ge",
                                                "%cluster_ctarank",
                                                "%cluster_nctarank",
                                                "%dynamic_smem_size",
                                                "%total_smem_size",
                                                "%is_explicit_cluster",
                                                "%WARP_SZ",
                                                "WARP_SZ"};
  if (singles.count(name)) return true;
  const size_t dot = name.rfind('.');
  return dot != std::string::npos && dimensions.count(name.substr(0, dot)) &&
         (name.substr(dot) == ".x" || name.substr(dot) == ".y" || name.substr(dot) == ".z");
}

bool is_clock(const std::string& name) {
  return name == "%clock" || name == "%clock64" || name == "%clock_hi" || name == "%globaltimer" ||
         name == "%globaltimer_lo" || name == "%globaltimer_hi";
}

std::string text_of(const Term& term) {
  std::string text = term.negated ? "!" : "";
  const bool is_address = term.kind == Term::Kind::kAddress;
  if (is_address) text += "[";
  if (!term.name.empty()) {
    text += term.name;
    if (term.bits) text += "+" + std::to_string(int64_t(term.bits));
  } else if (term.kind == Term::Kind::kNumber || is_address) {
    text += std::to_string(int64_t(term.bits));
  }
  const char* const separator = term.kind == Term::Kind::kPair ? "|" : ", ";
  std::string parts;
  for (const Term& part : term.parts)
    parts += (parts.empty() && !is_address ? "" : separator) + text_of(part);
  if (term.kind == Term::Kind::kVector) parts = "{" + parts + "}";
  return text + parts + (is_address ? "]" : "");
}

std::string text_of(const Node& node) {
  constexpr size_t kLongest = 120;  // a wgmma lists 128 registers
  std::string text = node.guard.empty() ? "" : (node.guard_negated ? "@!" : "@") + node.guard + " ";
  text += node.name;
  for (size_t i = 0; i < node.terms.size(); ++i) text += (i ? ", " : " ") + text_of(node.terms[i]);
  return text.size() > kLongest ? text.substr(0, kLongest) + " .." : text;
}

class Builder {
 public:
  explicit Builder(const Module& module) : module_(module) {}

  Program build(const std::string& name) {
    const auto found = module_.functions.find(name);
    if (found == module_.functions.end() || !found->second.is_entry || !found->second.is_defined)
      fail("the module has no kernel '" + name + "'");
    const Function& entry = found->second;
    program_.name = name;
    program_.files = module_.files;
    const auto directive = [&](const char* key) {
      const auto at = entry.directives.find(key);
      return at == entry.directives.end() ? std::vector<int>() : at->second;
    };
    program_.max_threads = directive("maxntid");
    program_.required_threads = directive("reqntid");
    program_.required_cluster = directive("reqnctapercluster");
    if (const auto most = directive("maxnreg"); !most.empty()) program_.max_registers = most[0];

    scopes_.emplace_back();
    for (const Variable& variable : module_.variables) declare(variable);
    scopes_.emplace_back();
    parameters(entry);
    body(entry.body, "exit");
    emit(control("exit", entry.at));
    if (dynamic_alignment_) {
      program_.static_shared_end = align(program_.static_shared_end, dynamic_alignment_);
      for (const int slot : dynamic_slots_) program_.constants[slot] = program_.static_shared_end;
    }
    resolve_labels();
    find_meetings(program_.code);
    mark_wgmma_registers();
    return std::move(program_);
  }

 private:
  struct Binding {
    enum class Kind { kRegister, kFamily, kAddress, kDynamicShared, kLabel };
    Kind kind;
    int slot = -1;         // kRegister
    int count = 0;         // kFamily
    uint64_t address = 0;  // kAddress
    int label = -1;        // kLabel
    bool is_predicate = false;
  };

  static uint64_t align(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

  static uint64_t place(uint64_t& end, const Variable& variable) {
    const uint64_t size = size_of(variable);
    const int natural = bytes_of(variable.type) * variable.vector;
    const uint64_t at = align(end, variable.alignment ? variable.alignment : natural);
    end = at + size;
    return at;
  }
  static uint64_t size_of(const Variable& variable) {
    return uint64_t(bytes_of(variable.type)) * variable.vector * variable.elements;
  }

  void parameters(const Function& entry) {
    uint64_t end = 0;
    for (const Variable& parameter : entry.parameters) {
      const uint64_t at = place(end, parameter);
      program_.parameters.push_back(parameter);
      program_.parameter_offsets.push_back(int(at));
      bind(parameter.name, {Binding::Kind::kAddress, -1, 0, at, -1});
      constexpr uint64_t kMost = 32764;  // bytes (CUDA C++ Programming Guide, "Kernel parameters")
      if (end > kMost) fail("takes more than " + std::to_string(kMost) + " bytes of parameters");
    }
    program_.parameter_bytes = int(end);
  }

  void bind(const std::string& name, Binding binding) {
    if (!scopes_.back().emplace(name, binding).second)
      fail("'" + name + "' is declared twice in one scope");
  }

  void declare(const Variable& variable) {
    Binding binding{Binding::Kind::kAddress};
    if (variable.space == "reg") {
      binding.kind = variable.count ? Binding::Kind::kFamily : Binding::Kind::kRegister;
      binding.count = variable.count;
      binding.is_predicate = variable.type == "pred";
      if (!variable.count) program_.names[binding.slot = program_.slots++] = variable.name;
    } else if (variable.space == "shared" && variable.is_open) {
      binding.kind = Binding::Kind::kDynamicShared;
      dynamic_alignment_ = std::max(dynamic_alignment_, std::max(variable.alignment, 1));
    } else if (variable.space == "shared") {
      uint64_t end = program_.static_shared_end;
      binding.address = place(end, variable);
      program_.static_shared_end = uint32_t(check_size(end, variable));
    } else if (variable.space == "local") {
      uint64_t end = program_.local_bytes;
      binding.address = place(end, variable);
      program_.local_bytes = int(check_size(end, variable));
    } else if (variable.space == "param") {
      uint64_t end = program_.frame_bytes;
      binding.address = kFrameOffset + place(end, variable);
      program_.frame_bytes = int(check_size(end, variable));
    } else {
      const uint64_t slack = variable.alignment ? variable.alignment : 16;
      global_bytes_ = check_size(global_bytes_ + size_of(variable) + slack, variable);
      auto data = std::make_shared<std::vector<uint8_t>>(size_of(variable) + slack);
      const uint64_t at = align(reinterpret_cast<uint64_t>(data->data()), slack);
      if (variable.initial.size() > size_of(variable)) fail(variable.name + " is filled too full");
      std::copy(variable.initial.begin(), variable.initial.end(), reinterpret_cast<uint8_t*>(at));
      binding.address = at;
      program_.globals.push_back({data, at, size_of(variable), variable.space != "const"});
    }
    bind(variable.name, binding);
  }

  static uint64_t check_size(uint64_t end, const Variable& variable) {
    constexpr uint64_t kMost = 1 << 24;
    if (end > kMost) fail("line " + std::to_string(variable.at.line) + ": too much memory");
    return end;
  }

  Binding* find(const std::string& name) {
    for (size_t i = scopes_.size(); i-- > 0;) {
      const auto found = scopes_[i].find(name);
      if (found != scopes_[i].end()) return &found->second;
    }
    return nullptr;
  }

  // A register of a family %r<100> becomes one when it is first named, in the family's own scope.
  Binding* find_in_family(const std::string& name) {
    size_t digits = name.size();
    while (digits > 0 && std::isdigit(static_cast<unsigned char>(name[digits - 1]))) --digits;
    if (digits == name.size() || name.size() - digits > 7) return nullptr;
    for (size_t i = scopes_.size(); i-- > 0;) {
      const auto family = scopes_[i].find(name.substr(0, digits));
      if (family == scopes_[i].end() || family->second.kind != Binding::Kind::kFamily) continue;
      if (std::stoi(name.substr(digits)) >= family->second.count) return nullptr;
      Binding binding = family->second;
      binding.kind = Binding::Kind::kRegister;
      binding.slot = program_.slots++;
      program_.names[binding.slot] = name;
      return &(scopes_[i][name] = binding);
    }
    return nullptr;
  }

  int constant(uint64_t bits) {
    const auto found = constant_slots_.find(bits);
    if (found != constant_slots_.end()) return found->second;
    const int slot = program_.slots++;
    program_.constants[slot] = bits;
    return constant_slots_[bits] = slot;
  }

  int special(const std::string& name) {
    const auto found = special_slots_.find(name);
    if (found != special_slots_.end()) return found->second;
    const int slot = program_.slots++;
    (is_clock(name) ? program_.clocks : program_.specials).push_back({name, slot});
    return special_slots_[name] = slot;
  }

  // A name where a value is wanted: a register's slot, or a slot with a variable's address.
  int slot_of(const std::string& name) {
    Binding* binding = find(name);
    if (!binding) binding = find_in_family(name);
    if (!binding) {
      if (is_special(name) || is_clock(name)) return special(name);
      fail("'" + name + "' was not declared");
    }
    switch (binding->kind) {
      case Binding::Kind::kRegister:
        return binding->slot;
      case Binding::Kind::kAddress:
        return constant(binding->address);
      case Binding::Kind::kDynamicShared: {
        // Where it begins is known only when all of the static part is.
        const int slot = program_.slots++;
        dynamic_slots_.push_back(slot);
        return slot;
      }
      default:
        fail("'" + name + "' is not a value");
    }
  }

  Operand operand(const Term& term) {
    Operand operand;
    operand.negated = term.negated;
    operand.offset = int64_t(term.bits);
    for (const Term& part : term.parts) operand.parts.push_back(this->operand(part));
    switch (term.kind) {
      case Term::Kind::kNumber:
        operand.kind = Operand::Kind::kValue;
        operand.slot = constant(term.bits);
        break;
      case Term::Kind::kName:
        if (term.name == "_") {
          operand.kind = Operand::Kind::kSink;
        } else if (Binding* const binding = find(term.name);
                   binding && binding->kind == Binding::Kind::kLabel) {
          operand.kind = Operand::Kind::kLabel;
          operand.target = binding->label;
        } else {
          operand.kind = Operand::Kind::kValue;
          operand.slot = slot_of(term.name);
          const Binding* const value = find(term.name);
          operand.is_predicate = value && value->is_predicate;
        }
        break;
      case Term::Kind::kAddress:
        operand.kind = Operand::Kind::kAddress;
        if (!term.name.empty()) operand.slot = slot_of(term.name);
        break;
      default:
        operand.kind = Operand::Kind::kVector;
    }
    return operand;
  }

  void declare_labels(const std::vector<Node>& nodes) {
    for (const Node& node : nodes)
      if (node.kind == Node::Kind::kLabel) {
        bind(node.name, {Binding::Kind::kLabel, -1, 0, 0, int(label_positions_.size())});
        label_positions_.push_back(-1);
      }
  }

  // `on_return` is what `ret` means: "exit", or the name of a label after an inlined body.
  void body(const std::vector<Node>& nodes, const std::string& on_return) {
    scopes_.emplace_back();
    declare_labels(nodes);
    for (const Node& node : nodes) {
      if (node.kind == Node::Kind::kScope) {
        body(node.nodes, on_return);
      } else if (node.kind == Node::Kind::kVariable) {
        declare(node.variable);
      } else if (node.kind == Node::Kind::kLabel) {
        label_positions_[find(node.name)->label] = int(program_.code.size());
      } else {
        try {
          instruction(node, on_return);
        } catch (const Error& error) {
          const std::string text = error.what();
          if (text.rfind("PTX line ", 0) == 0) throw;  // of a call's body, told already
          fail("PTX line " + std::to_string(node.at.line) + ": " + text_of(node) + ": " + text);
        }
      }
    }
    scopes_.pop_back();
  }

  void instruction(const Node& node, const std::string& on_return) {
    if (node.name == "call" || node.name == "call.uni") return call(node);
    Node plain = node;
    if (node.name == "ret" || node.name == "ret.uni") {
      plain.name = on_return == "exit" ? "exit" : "bra";
      if (on_return != "exit") plain.terms = {name_term(on_return)};
    }
    emit(plain);
  }

  static Term name_term(const std::string& name) {
    Term term;
    term.name = name;
    return term;
  }

  static Node control(const std::string& opcode, Location at) {
    Node node;
    node.name = opcode;
    node.at = at;
    return node;
  }

  // A call is the callee's body, its formal parameters bound to where the caller put the actual.
  void call(const Node& node) {
    constexpr int kDeepest = 16;
    if (++call_depth_ > kDeepest) fail("calls itself, or nests too deep");
    std::vector<Term> terms = node.terms;
    std::vector<Term> returns, arguments;
    if (!terms.empty() && terms.front().kind == Term::Kind::kList) {
      returns = terms.front().parts;
      terms.erase(terms.begin());
    }
    if (terms.empty() || terms.front().kind != Term::Kind::kName) fail("calls nothing");
    const std::string callee = terms.front().name;
    if (terms.size() > 1) arguments = terms[1].parts;
    const auto found = module_.functions.find(callee);
    if (found == module_.functions.end()) fail("calls '" + callee + "', which is unknown");
    const Function& function = found->second;
    if (!function.is_defined && callee != "__assertfail")
      fail("calls '" + callee + "', which has no body");
    if (returns.size() != function.returns.size() || arguments.size() != function.parameters.size())
      fail("calls '" + callee + "' with a wrong number of parameters");

    const std::string end = "$after_call_" + std::to_string(label_positions_.size());
    scopes_.emplace_back();
    bind(end, {Binding::Kind::kLabel, -1, 0, 0, int(label_positions_.size())});
    label_positions_.push_back(-1);
    if (!node.guard.empty()) {  // the others go round
      Node around = control("bra", node.at);
      around.guard = node.guard;
      around.guard_negated = !node.guard_negated;
      around.terms = {name_term(end)};
      emit(around);
    }
    if (callee == "__assertfail") {
      emit(control("trap.assertion", node.at));
    } else {
      bind_actual(function.returns, returns);
      bind_actual(function.parameters, arguments);
      body(function.body, end);
    }
    label_positions_[find(end)->label] = int(program_.code.size());
    scopes_.pop_back();
    --call_depth_;
  }

  void bind_actual(const std::vector<Variable>& formal, const std::vector<Term>& actual) {
    for (size_t i = 0; i < formal.size(); ++i) {
      Binding* binding = find(actual[i].name);
      if (!binding) binding = find_in_family(actual[i].name);
      if (!binding) fail("'" + actual[i].name + "' was not declared");
      bind(formal[i].name, *binding);
    }
  }

  void emit(const Node& node) {
    constexpr size_t kMost = 1 << 18;  // as few lines become where functions call each other twice
    if (program_.code.size() >= kMost) fail("is one instruction too many");
    Instruction instruction;
    instruction.text = text_of(node);
    instruction.at = node.at;
    if (!node.guard.empty()) {
      instruction.guard = slot_of(node.guard);
      instruction.guard_negated = node.guard_negated;
    }
    const bool is_double = node.name.find(".f64") != std::string::npos;
    for (Term term : node.terms) {
      if (term.is_decimal && !is_double) term.bits = bits_of(float(as<double>(term.bits)));
      if (term.kind == Term::Kind::kPair)
        for (const Term& part : term.parts) instruction.operands.push_back(operand(part));
      else
        instruction.operands.push_back(operand(term));
    }
    if (!node.terms.empty() && writes_first(node.name)) check_destination(node.terms[0]);
    Modifiers modifiers(node.name);
    const auto decoder = decoders().find(modifiers.base());
    if (decoder == decoders().end()) fail("an instruction that the emulator does not know");
    decoder->second(modifiers, instruction);
    if (!modifiers.empty() || !instruction.run)
      fail("the emulator does not know it with ." + (modifiers.empty() ? "" : modifiers.left()[0]));
    for (const Operand& operand : instruction.operands)
      if (operand.negated && !operand.is_predicate) fail("negates what is no predicate");
    for (const Operand& operand : instruction.operands)
      for (const Special& clock : program_.clocks)
        instruction.reads_clock |= operand.slot == clock.slot;
    // bar is short for barrier .. .aligned; that of a warp is another instruction.
    instruction.is_aligned = node.name.find(".aligned") != std::string::npos ||
                             (modifiers.base() == "bar" && node.name.rfind("bar.warp", 0) != 0);
    instruction.is_wgmma = node.name.rfind("wgmma.mma_async", 0) == 0;
    program_.code.push_back(std::move(instruction));
  }

  // Whether an instruction's first operand is where its result goes, unless it is an address.
  static bool writes_first(const std::string& opcode) {
    for (const char* const reduces : {"bar.red", "bar.cta.red", "barrier.red", "barrier.cta.red"})
      if (opcode.rfind(reduces, 0) == 0) return true;
    static const std::set<std::string> others = {"bar",       "barrier",    "bra",  "cp",
                                                 "nanosleep", "setmaxnreg", "trap", "brkpt"};
    if (opcode.rfind("wgmma.wait_group", 0) == 0) return false;
    return !others.count(opcode.substr(0, opcode.find('.')));
  }

  void check_destination(const Term& term) {
    if (term.kind == Term::Kind::kNumber) fail("writes a constant");
    if (term.kind == Term::Kind::kAddress) return;
    for (const Term& part : term.parts) check_destination(part);
    if (term.kind != Term::Kind::kName || term.name == "_") return;
    const Binding* binding = find(term.name);
    if (!binding) binding = find_in_family(term.name);
    if (!binding || binding->kind != Binding::Kind::kRegister)
      fail("writes a constant: '" + term.name + "' is no register");
  }

  void resolve_labels() {
    for (Instruction& instruction : program_.code)
      for (Operand& operand : instruction.operands)
        if (operand.kind == Operand::Kind::kLabel) {
          operand.target = label_positions_[operand.target];
          instruction.target = operand.target;
        }
  }

  static void slots_of(const Operand& operand, std::set<int>& slots) {
    if (operand.kind == Operand::Kind::kValue) slots.insert(operand.slot);
    for (const Operand& part : operand.parts) slots_of(part, slots);
  }

  void mark_wgmma_registers() {
    std::set<int> used;
    for (const Instruction& at : program_.code)
      if (at.is_wgmma)
        for (const Operand& operand : at.operands)
          if (operand.kind == Operand::Kind::kVector) slots_of(operand, used);
    if (used.empty()) return;
    for (Instruction& at : program_.code) {
      std::set<int> slots;
      if (!at.is_wgmma)
        for (const Operand& operand : at.operands) slots_of(operand, slots);
      for (const int slot : slots) at.uses_wgmma_register |= used.count(slot) > 0;
    }
  }

  const Module& module_;
  Program program_;
  std::vector<std::unordered_map<std::string, Binding>> scopes_;
  std::unordered_map<uint64_t, int> constant_slots_;
  std::unordered_map<std::string, int> special_slots_;
  std::vector<int> label_positions_;
  std::vector<int> dynamic_slots_;
  uint64_t global_bytes_ = 0;
  int dynamic_alignment_ = 0, call_depth_ = 0;
};

}  // namespace

Program build(const Module& module, const std::string& entry) {
  return Builder(module).build(entry);
}

}  // namespace emulator
