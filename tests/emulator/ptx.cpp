// Lexer and parser. PTX is a line of tokens with few rules; only .loc, .file and debug sections end
// with their line or brace instead of a semicolon.
#include "ptx.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

namespace emulator {

void fail(const std::string& message) { throw Error(message); }

int bytes_of(const std::string& type) {
  if (type == "pred") return 1;
  size_t digits = type.size();
  while (digits > 0 && std::isdigit(static_cast<unsigned char>(type[digits - 1]))) --digits;
  const std::string kind = type.substr(0, digits), bits = type.substr(digits);
  const bool is_integer = kind == "b" || kind == "u" || kind == "s";
  if ((is_integer || kind == "f") && bits.size() <= 3 && !bits.empty()) {
    const int count = std::stoi(bits);
    for (const int known : {8, 16, 32, 64, 128})
      if (count == known && (is_integer || (count > 8 && count < 128))) return count / 8;
  }
  if (type == "bf16") return 2;
  if (type == "f16x2" || type == "bf16x2" || type == "tf32") return 4;
  if (type == "f32x2") return 8;
  fail("'" + type + "' is not a type");
}

namespace {

struct Token {
  enum class Kind { kWord, kNumber, kString, kMark, kEnd };
  Kind kind;
  std::string text;
  uint64_t bits = 0;
  int line = 0;
  bool is_decimal = false;
};

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
         c == '.';
}

class Lexer {
 public:
  explicit Lexer(const std::string& text) : text_(text) {}

  std::vector<Token> tokens() {
    std::vector<Token> all;
    do all.push_back(next());
    while (all.back().kind != Token::Kind::kEnd);
    return all;
  }

 private:
  char at(size_t offset = 0) const {
    return position_ + offset < text_.size() ? text_[position_ + offset] : '\0';
  }

  void skip_space() {
    while (position_ < text_.size()) {
      if (at() == '\n') {
        ++line_, ++position_;
      } else if (std::isspace(static_cast<unsigned char>(at()))) {
        ++position_;
      } else if (at() == '/' && at(1) == '/') {
        while (position_ < text_.size() && at() != '\n') ++position_;
      } else if (at() == '/' && at(1) == '*') {
        for (position_ += 2; position_ < text_.size(); ++position_) {
          if (at() == '\n') ++line_;
          if (at() == '*' && at(1) == '/') break;
        }
        position_ = std::min(position_ + 2, text_.size());
      } else {
        return;
      }
    }
  }

  Token next() {
    skip_space();
    Token token{Token::Kind::kEnd, "", 0, line_};
    if (position_ >= text_.size()) return token;
    const size_t begin = position_;
    if (std::isdigit(static_cast<unsigned char>(at()))) {
      token.kind = Token::Kind::kNumber;
      while (std::isalnum(static_cast<unsigned char>(at()))) ++position_;
      if (at() == '.') return decimal(begin);
      token.text = text_.substr(begin, position_ - begin);
      token.bits = number(token.text);
    } else if (is_word(at())) {
      token.kind = Token::Kind::kWord;
      while (is_word(at()) || (at() == ':' && at(1) == ':' && is_word(at(2))))
        position_ += at() == ':' ? 2 : 1;
      token.text = text_.substr(begin, position_ - begin);
      // `.reg.b32` is two directives; an opcode with its modifiers is one word.
      const size_t next = token.text.find('.', 1);
      if (token.text[0] == '.' && next != std::string::npos) {
        token.text.resize(next);
        position_ = begin + next;
      }
    } else if (at() == '"') {
      token.kind = Token::Kind::kString;
      for (++position_; position_ < text_.size() && at() != '"'; ++position_)
        if (at() == '\n') ++line_;
      token.text = text_.substr(begin + 1, position_ - begin - 1);
      ++position_;
    } else {
      token.kind = Token::Kind::kMark;
      token.text = std::string(1, text_[position_++]);
    }
    return token;
  }

  // 1.0 and 2.5e-3, as the bits of a double.
  Token decimal(size_t begin) {
    const char* const first = text_.c_str() + begin;
    char* end = nullptr;
    const double value = std::strtod(first, &end);
    position_ = begin + (end - first);
    Token token{Token::Kind::kNumber, text_.substr(begin, end - first), 0, line_};
    std::memcpy(&token.bits, &value, sizeof value);
    token.is_decimal = true;
    return token;
  }

  // 12, 0x1f, 017, 0b1, each with U or not; 0f3F800000 and 0d3FF0000000000000 as their bits.
  uint64_t number(const std::string& text) const {
    std::string digits = text;
    int base = 10;
    const char second = text.size() > 1 && text[0] == '0' ? char(std::tolower(text[1])) : '\0';
    if (second == 'x' || second == 'f' || second == 'd' || second == 'b') {
      base = second == 'b' ? 2 : 16;
      digits = text.substr(2);
    } else if (second) {
      base = 8;
    }
    if (base != 16 || second == 'x')
      if (!digits.empty() && digits.back() == 'U') digits.pop_back();
    char* end = nullptr;
    const uint64_t bits = std::strtoull(digits.c_str(), &end, base);
    if (digits.empty() || *end != '\0' || !std::isxdigit(static_cast<unsigned char>(digits[0])))
      fail("line " + std::to_string(line_) + ": '" + text + "' is not a number");
    return bits;
  }

  const std::string& text_;
  size_t position_ = 0;
  int line_ = 1;
};

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Module module() {
    while (peek().kind != Token::Kind::kEnd) top_level();
    return std::move(module_);
  }

 private:
  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(position_ + ahead, tokens_.size() - 1)];
  }
  const Token& take() {
    const Token& token = peek();
    if (token.kind != Token::Kind::kEnd) ++position_;
    return token;
  }
  bool take_if(const std::string& text) {
    if (peek().text != text || peek().kind == Token::Kind::kString) return false;
    take();
    return true;
  }
  [[noreturn]] void wrong(const std::string& expected) const {
    const Token& token = peek();
    const std::string got = token.kind == Token::Kind::kEnd ? "the end" : "'" + token.text + "'";
    fail("line " + std::to_string(token.line) + ": expected " + expected + ", got " + got);
  }
  void expect(const std::string& text) {
    if (!take_if(text)) wrong("'" + text + "'");
  }
  std::string word(const std::string& what) {
    if (peek().kind != Token::Kind::kWord) wrong(what);
    return take().text;
  }
  uint64_t number(const std::string& what) {
    const bool minus = take_if("-");
    if (peek().kind != Token::Kind::kNumber) wrong(what);
    const uint64_t bits = take().bits;
    return minus ? -bits : bits;
  }
  int small_number(const std::string& what) {
    const uint64_t value = number(what);
    if (value > 1u << 30) fail("line " + std::to_string(peek().line) + ": " + what + " is too big");
    return int(value);
  }
  void skip_line() {
    for (const int line = peek().line; peek().line == line && peek().kind != Token::Kind::kEnd;)
      take();
  }

  void top_level() {
    if (peek().text == ".version" || peek().text == ".address_size") {
      skip_line();
    } else if (take_if(".target")) {
      module_.target = word("a target");
      while (take_if(",")) word("a target");
    } else if (peek().text == ".file") {
      file();
    } else if (take_if(".section")) {
      word("a section's name");
      expect("{");
      while (!take_if("}")) {
        if (peek().kind == Token::Kind::kEnd) wrong("'}'");
        take();
      }
    } else {
      while (take_if(".visible") || take_if(".extern") || take_if(".weak") || take_if(".common")) {
      }
      if (take_if(".entry")) {
        function(true);
      } else if (take_if(".func")) {
        function(false);
      } else if (is_space(peek().text)) {
        variables(module_.variables);
      } else {
        wrong("a directive");
      }
    }
  }

  void file() {
    expect(".file");
    const int id = small_number("a file's number");
    if (peek().kind != Token::Kind::kString) wrong("a file's name");
    module_.files[id] = take().text;
    while (take_if(",")) number("a number");
  }

  static bool is_space(const std::string& text) {
    return text == ".reg" || text == ".shared" || text == ".local" || text == ".global" ||
           text == ".const" || text == ".param";
  }

  // `.space .align N .v2 .type name`, up to the name's brackets.
  Variable variable_type() {
    Variable variable;
    variable.at = {peek().line, 0, 0};
    variable.space = word("a state space").substr(1);
    while (peek().kind == Token::Kind::kWord && peek().text[0] == '.') {
      const std::string text = take().text.substr(1);
      if (text == "align") {
        variable.alignment = small_number("an alignment");
        if (variable.alignment < 1 || variable.alignment & (variable.alignment - 1))
          fail("line " + std::to_string(peek().line) + ": an alignment must be a power of two");
      } else if (text == "v2" || text == "v4") {
        variable.vector = text[1] - '0';
      } else if (text == "ptr" || is_space("." + text)) {
        // Attributes of a pointer parameter: `.ptr .global .align 16`, about what it points to.
        if (text == "ptr" && !variable.type.empty()) {
          while (peek().text == ".align" || is_space(peek().text))
            if (take().text == ".align") small_number("an alignment");
        }
      } else {
        bytes_of(text);
        variable.type = text;
      }
    }
    if (variable.type.empty()) wrong("a type");
    return variable;
  }

  void variable_name(Variable& variable) {
    variable.name = word("a name");
    if (take_if("<")) {
      variable.count = small_number("a count");
      if (variable.count > 1 << 20)
        fail("line " + std::to_string(variable.at.line) + ": too many registers");
      expect(">");
    }
    while (take_if("[")) {
      if (take_if("]")) {
        variable.is_open = true;
      } else {
        variable.elements *= small_number("a size");
        if (variable.elements > 1 << 30)
          fail("line " + std::to_string(variable.at.line) + ": array is too big");
        expect("]");
      }
    }
    if (take_if("=")) initial_value(variable);
  }

  void initial_value(Variable& variable) {
    const int bytes = bytes_of(variable.type);
    const auto add = [&] {
      uint64_t bits = number("a number");
      for (int i = 0; i < bytes; ++i, bits = i < 8 ? bits >> 8 : 0)
        variable.initial.push_back(uint8_t(bits));
    };
    if (!take_if("{")) return add();
    while (!take_if("}")) {
      add();
      if (peek().text != "}") expect(",");
    }
  }

  void variables(std::vector<Variable>& to) {
    Variable variable = variable_type();
    do {
      Variable named = variable;
      variable_name(named);
      to.push_back(named);
    } while (take_if(","));
    expect(";");
  }

  std::vector<Variable> parameters() {
    std::vector<Variable> all;
    if (!take_if("(")) return all;
    while (!take_if(")")) {
      Variable variable = variable_type();
      variable_name(variable);
      all.push_back(variable);
      if (peek().text != ")") expect(",");
    }
    return all;
  }

  void function(bool is_entry) {
    Function function;
    function.is_entry = is_entry;
    function.at = {peek().line, 0, 0};
    if (!is_entry) function.returns = parameters();
    function.name = word("a function's name");
    function.parameters = parameters();
    while (peek().kind == Token::Kind::kWord && peek().text[0] == '.') {
      std::vector<int>& values = function.directives[take().text.substr(1)];
      if (peek().kind == Token::Kind::kNumber) {
        do values.push_back(small_number("a number"));
        while (take_if(","));
      }
    }
    if (!take_if(";")) {
      function.is_defined = true;
      location_ = {};
      function.body = scope(0);
    }
    Function& known = module_.functions[function.name];
    if (function.is_defined || !known.is_defined) known = function;
  }

  std::vector<Node> scope(int depth) {
    constexpr int kDeepest =
        64;  // scopes within scopes; a parser that recurses has a stack to save
    if (depth > kDeepest) wrong("fewer scopes within each other");
    std::vector<Node> nodes;
    expect("{");
    while (!take_if("}")) {
      if (peek().kind == Token::Kind::kEnd) wrong("'}'");
      statement(nodes, depth);
    }
    return nodes;
  }

  void statement(std::vector<Node>& nodes, int depth) {
    location_.line = peek().line;
    Node node;
    node.at = location_;
    if (peek().text == ".loc") {
      location();
      return;
    } else if (peek().text == ".file") {
      file();
      return;
    } else if (take_if(".pragma")) {
      while (!take_if(";")) {
        if (peek().kind == Token::Kind::kEnd) wrong("';'");
        take();
      }
      return;
    } else if (peek().text == "{") {
      node.kind = Node::Kind::kScope;
      node.nodes = scope(depth + 1);
    } else if (is_space(peek().text)) {
      std::vector<Variable> declared;
      variables(declared);
      node.kind = Node::Kind::kVariable;
      for (const Variable& variable : declared) {
        node.variable = variable;
        nodes.push_back(node);
      }
      return;
    } else if (peek().kind == Token::Kind::kWord && peek(1).text == ":") {
      node.kind = Node::Kind::kLabel;
      node.name = take().text;
      take();
    } else if (take_if(";")) {
      return;
    } else if (peek().kind == Token::Kind::kWord && peek().text[0] == '.') {
      node.name = take().text;  // .callprototype and the like: unknown, where a kernel has them
      while (!take_if(";")) {
        if (peek().kind == Token::Kind::kEnd) wrong("';'");
        take();
      }
    } else {
      instruction(node);
    }
    nodes.push_back(std::move(node));
  }

  void location() {
    const int line = peek().line;
    take();
    location_.source_file = small_number("a file's number");
    location_.source_line = small_number("a line");
    while (peek().line == line && peek().kind != Token::Kind::kEnd) take();
  }

  void instruction(Node& node) {
    if (take_if("@")) {
      node.guard_negated = take_if("!");
      node.guard = word("a predicate");
    }
    node.name = word("an instruction");
    if (node.name[0] == '.' || node.name[0] == '%') {
      --position_;
      wrong("an instruction");
    }
    if (take_if(";")) return;
    do {
      Term first = term(0);
      if (take_if("|")) {
        Term pair;
        pair.kind = Term::Kind::kPair;
        pair.parts = {first, term(0)};
        first = pair;
      }
      node.terms.push_back(std::move(first));
    } while (take_if(","));
    expect(";");
  }

  Term term(int depth) {
    if (depth > 3) wrong("a simpler operand");
    Term term;
    if (take_if("!")) {
      term.negated = true;
      term.name = word("a predicate");
    } else if (take_if("{")) {
      term.kind = Term::Kind::kVector;
      term.parts = list("}", depth);
    } else if (take_if("(")) {
      term.kind = Term::Kind::kList;
      term.parts = list(")", depth);
    } else if (take_if("[")) {
      term.kind = Term::Kind::kAddress;
      if (peek().kind == Token::Kind::kWord) {
        term.name = take().text;
        if (take_if("+"))
          term.bits = number("an offset");
        else if (peek().text == "-")
          term.bits = number("an offset");
      } else {
        term.bits = number("an address");
      }
      if (take_if(","))
        term.parts = list("]", depth);
      else
        expect("]");
    } else if (peek().kind == Token::Kind::kWord) {
      term.name = take().text;
    } else {
      term.kind = Term::Kind::kNumber;
      term.is_decimal = peek().is_decimal;
      term.bits = number("an operand");
    }
    return term;
  }

  std::vector<Term> list(const std::string& end, int depth) {
    std::vector<Term> parts;
    while (!take_if(end)) {
      parts.push_back(term(depth + 1));
      if (peek().text != end) expect(",");
    }
    return parts;
  }

  std::vector<Token> tokens_;
  size_t position_ = 0;
  Module module_;
  Location location_;
};

}  // namespace

Module parse(const std::string& text) { return Parser(Lexer(text).tokens()).module(); }

}  // namespace emulator
