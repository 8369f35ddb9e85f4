#include "cuda/store/scratch.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>

#include "core/text.h"
#include "octavo/error.h"

namespace octavo::cuda {

ScratchFolder::ScratchFolder() {
  std::error_code none;
  std::filesystem::path parent = std::filesystem::temp_directory_path(none);
  if (none) parent = "/tmp";
  std::string name = (parent / "octavo-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) {
    throw Error(ErrorCode::unavailable, concat("cannot make a folder for the compiler in ",
                                               parent.string(), ": ", std::strerror(errno)));
  }
  path_ = name;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace octavo::cuda
