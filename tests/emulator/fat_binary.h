// The PTX that nvcc puts into an object file, and the programs built from it.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "program.h"

namespace emulator {

// The PTX of one architecture. Parsing and building it wait until a kernel of it is asked for.
struct Image {
  std::string text;
  int architecture = 0;   // 90 of sm_90a
  bool is_exact = false;  // sm_90a: runs on 9.0 only
  std::optional<Module> module;
  std::map<std::string, std::shared_ptr<const Program>> programs;
};

class FatBinary {
 public:
  // `wrapper` is what nvcc's host code hands to __cudaRegisterFatBinary; it stays where it is.
  explicit FatBinary(const void* wrapper) : wrapper_(wrapper) {}

  // The kernel as the newest PTX that runs on compute capability major.minor has it; null where
  // there is no such PTX.
  std::shared_ptr<const Program> program(const std::string& kernel, int major, int minor);

 private:
  Image* image_for(int architecture);

  const void* wrapper_;
  std::vector<Image> images_;
};

}  // namespace emulator
