// The layout of a fat binary, as nvcc 13.0 writes it: a wrapper that points to a container, a
// header that says how long it is, then entries: each a header, then its payload. NVIDIA has not
// documented it; objects of nvcc 13.0 looked at in hexadecimal agree with what cuobjdump says of
// them.
#include "fat_binary.h"

#include <cctype>
#include <cstdint>
#include <cstring>

namespace emulator {
namespace {

constexpr uint32_t kWrapperMagic = 0x466243b1, kContainerMagic = 0xba55ed50;
constexpr uint16_t kPtx = 1;  // an entry's kind

struct Wrapper {
  uint32_t magic, version;
  const uint8_t* container;
};

struct ContainerHeader {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;  // of all entries
};

struct EntryHeader {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;  // of the payload, with its padding
};

template <typename T>
T read(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// The text before its padding. The empty lines that it begins with stay: they stand for comments of
// nvcc, so that line numbers are those of `nvcc -ptx`.
Image image_of(const uint8_t* payload, uint64_t bytes) {
  const char* const text = reinterpret_cast<const char*>(payload);
  Image image;
  image.text.assign(text, strnlen(text, bytes));
  const std::string target = ".target sm_";
  const size_t at = image.text.find(target);
  if (at == std::string::npos)
    fail("a fat binary holds PTX that is no plain text: compile with --no-compress");
  for (size_t i = at + target.size(); i < image.text.size(); ++i) {
    const char c = image.text[i];
    image.is_exact = std::isalpha(static_cast<unsigned char>(c));
    if (!std::isdigit(static_cast<unsigned char>(c))) break;
    image.architecture = image.architecture * 10 + (c - '0');
  }
  return image;
}

std::vector<Image> images_of(const void* wrapper) {
  const auto outer = read<Wrapper>(wrapper);
  if (outer.magic != kWrapperMagic) fail("a registered fat binary has no wrapper as nvcc makes it");
  const auto container = read<ContainerHeader>(outer.container);
  if (container.magic != kContainerMagic) fail("a registered fat binary has an unknown container");
  std::vector<Image> images;
  const uint8_t* entry = outer.container + container.header_bytes;
  const uint8_t* const end = entry + container.bytes;
  while (entry < end) {
    const auto header = read<EntryHeader>(entry);
    entry += header.header_bytes;
    if (header.kind == kPtx) images.push_back(image_of(entry, header.bytes));
    entry += header.bytes;
  }
  return images;
}

}  // namespace

Image* FatBinary::image_for(int architecture) {
  if (images_.empty()) images_ = images_of(wrapper_);
  Image* newest = nullptr;
  for (Image& image : images_) {
    const bool runs =
        image.is_exact ? image.architecture == architecture : image.architecture <= architecture;
    const bool is_newer = !newest || image.architecture > newest->architecture ||
                          (image.architecture == newest->architecture && image.is_exact);
    if (runs && is_newer) newest = &image;
  }
  return newest;
}

std::shared_ptr<const Program> FatBinary::program(const std::string& kernel, int major, int minor) {
  Image* const image = image_for(major * 10 + minor);
  if (!image) return nullptr;
  if (!image->module) image->module = parse(image->text);
  std::shared_ptr<const Program>& program = image->programs[kernel];
  if (!program) program = std::make_shared<const Program>(build(*image->module, kernel));
  return program;
}

}  // namespace emulator
