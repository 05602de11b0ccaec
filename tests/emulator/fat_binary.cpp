// The layout of a fat binary, as nvcc 13.0 writes it: a wrapper that points to a container, a
// header that says how long it is, then entries: each a header, then its payload. NVIDIA has not
// documented it; objects of nvcc 13.0 looked at in hexadecimal agree with what cuobjdump says of
// them.
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <tuple>

#include "cudart.h"

namespace emulator {
namespace {

constexpr uint32_t kWrapperMagic = 0x466243b1, kContainerMagic = 0xba55ed50;
constexpr uint16_t kPtx = 1;  // an entry's kind

struct ContainerHeader {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;  // of all entries
};

struct Wrapper {
  uint32_t magic, version;
  const ContainerHeader* container;
};

struct EntryHeader {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;  // of the payload, with its padding
};

// The PTX of one architecture.
struct Image {
  const char* text = nullptr;
  uint64_t bytes = 0;
  int architecture = 0;   // 90 of sm_90a
  bool is_exact = false;  // sm_90a: runs on 9.0 only
};

Image image_of(const char* text, uint64_t bytes) {
  const std::string_view before_number = ".target sm_";
  const size_t at = std::string_view(text, bytes).find(before_number);
  if (at == std::string_view::npos)
    fail("a fat binary holds PTX that is no plain text: compile with --no-compress");
  char* after;
  const int architecture = int(std::strtol(text + at + before_number.size(), &after, 10));
  return {text, bytes, architecture, std::isalpha(static_cast<unsigned char>(*after)) != 0};
}

Image newest_image(const void* registered, int capability) {
  const auto& wrapper = *static_cast<const Wrapper*>(registered);
  if (wrapper.magic != kWrapperMagic || wrapper.container->magic != kContainerMagic)
    fail("a registered fat binary is not as nvcc 13.0 makes it");
  const char* at = reinterpret_cast<const char*>(wrapper.container);
  at += wrapper.container->header_bytes;
  const char* const end = at + wrapper.container->bytes;
  Image newest;
  while (at < end) {
    const auto& entry = *reinterpret_cast<const EntryHeader*>(at);
    at += entry.header_bytes;
    if (entry.kind == kPtx) {
      const Image image = image_of(at, entry.bytes);
      const bool runs =
          image.is_exact ? image.architecture == capability : image.architecture <= capability;
      if (runs && std::tie(image.architecture, image.is_exact) >
                      std::tie(newest.architecture, newest.is_exact))
        newest = image;
    }
    at += entry.bytes;
  }
  return newest;
}

}  // namespace

std::shared_ptr<const Program> FatBinary::program(const std::string& kernel, int capability) {
  const Image image = newest_image(wrapper_, capability);
  if (!image.text) return nullptr;
  std::shared_ptr<const Program>& program = programs_[{image.text, kernel}];
  if (!program) {
    // Up to its padding. The empty lines that it begins with stay: they stand for comments of nvcc,
    // so that line numbers are those of `nvcc -ptx`.
    const std::string text(image.text, strnlen(image.text, image.bytes));
    if (!modules_.count(image.text)) modules_[image.text] = parse(text);
    program = std::make_shared<const Program>(build(modules_[image.text], kernel));
  }
  return program;
}

}  // namespace emulator
