# Writes a C++ file that holds files' bytes, as a function of src/cuda/store/sources.h.
#
#   cmake -D out=FILE -D function=NAME -D root=FOLDER -D files=PATH|PATH... -P embed.cmake
#
# Paths are from `root`, and the names of the files are these paths.
string(REPLACE "|" ";" files "${files}")
set(arrays)
set(table)
set(index 0)
foreach(file IN LISTS files)
  file(READ "${root}/${file}" bytes HEX)
  string(LENGTH "${bytes}" size)
  math(EXPR size "${size} / 2")
  string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  string(APPEND arrays "constexpr unsigned char kFile${index}[] = {\n${bytes}0};\n")
  string(APPEND table "      {\"${file}\", {reinterpret_cast<const char*>(kFile${index}), ${size}}},\n")
  math(EXPR index "${index} + 1")
endforeach()
file(WRITE "${out}" "// Made by embed.cmake.
#include \"cuda/store/sources.h\"

namespace octavo::cuda {
namespace {

${arrays}
}  // namespace

std::span<const EmbeddedFile> ${function}() {
  static const EmbeddedFile files[] = {
${table}  };
  return files;
}

}  // namespace octavo::cuda
")
