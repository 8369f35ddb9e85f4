# Sourced by ./check and ./demo from the project's root: what they install.

# The named Debian packages, where their command (or file) is missing. Arguments: TEST=PACKAGE, where
# TEST is a command or an absolute path.
install_missing() {
  local packages=() sudo=() entry
  for entry in "$@"; do
    case ${entry%%=*} in
      /*) [ -e "${entry%%=*}" ] || packages+=("${entry#*=}") ;;
      *) command -v "${entry%%=*}" >/dev/null || packages+=("${entry#*=}") ;;
    esac
  done
  [ ${#packages[@]} -eq 0 ] && return 0
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get update -q &&
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
      "${packages[@]}"
}

# A virtual environment in build/venv with vLLM and what the tests need. Minutes, so it is made again
# only when the requirements change.
python_packages() {
  local stamp=build/venv/requirements pip="build/venv/bin/pip install -q --disable-pip-version-check"
  mkdir -p build
  if ! cat requirements/engine.txt requirements/test.txt | cmp -s - "$stamp"; then
    rm -rf build/venv
    python3 -m venv build/venv &&
      $pip --no-compile --no-deps -r requirements/engine.txt &&  # Python compiles what it imports
      $pip -r requirements/test.txt &&
      cat requirements/engine.txt requirements/test.txt >"$stamp"
  fi
}

# The same with this project's package in it.
python_environment() {
  python_packages || return 1
  CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) build/venv/bin/pip install -q --disable-pip-version-check \
    --no-build-isolation --no-deps .
}
