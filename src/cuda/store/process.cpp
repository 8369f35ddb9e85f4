#include "cuda/store/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>

#include "core/text.h"
#include "octavo/error.h"

namespace octavo::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxOutput = 1 << 20;

[[noreturn]] void refuse(const std::string& what, int error) {
  throw Error(ErrorCode::unavailable, concat(what, ": ", std::strerror(error)));
}

class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_, O_CLOEXEC) != 0) refuse("a pipe for the compiler", errno);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    close(ends_[0]);
    close_writer();
  }
  int reader() const { return ends_[0]; }
  int writer() const { return ends_[1]; }
  void close_writer() {
    if (ends_[1] >= 0) close(ends_[1]);
    ends_[1] = -1;
  }

 private:
  int ends_[2];
};

/// How to start the child.
class SpawnOptions {
 public:
  explicit SpawnOptions(int output) {
    posix_spawn_file_actions_init(&files_);
    posix_spawn_file_actions_addopen(&files_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files_, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files_, output, STDERR_FILENO);
    posix_spawnattr_init(&attributes_);
    // The caller may block or ignore signals that compilers rely on.
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes_, &none);
    sigset_t usual;
    sigemptyset(&usual);
    for (const int signal : {SIGINT, SIGPIPE, SIGCHLD, SIGTERM}) sigaddset(&usual, signal);
    posix_spawnattr_setsigdefault(&attributes_, &usual);
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  SpawnOptions(const SpawnOptions&) = delete;
  SpawnOptions& operator=(const SpawnOptions&) = delete;
  ~SpawnOptions() {
    posix_spawn_file_actions_destroy(&files_);
    posix_spawnattr_destroy(&attributes_);
  }
  const posix_spawn_file_actions_t* files() const { return &files_; }
  const posix_spawnattr_t* attributes() const { return &attributes_; }

 private:
  posix_spawn_file_actions_t files_{};
  posix_spawnattr_t attributes_{};
};

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  list.reserve(texts.size() + 1);
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

/// NVCC_APPEND_FLAGS and the like would change code that keys do not tell apart.
std::vector<std::string> environment(const std::string& scratch) {
  std::vector<std::string> out = {"TMPDIR=" + scratch};
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (text.starts_with("TMPDIR=") || text.starts_with("NVCC_APPEND_FLAGS=") ||
        text.starts_with("NVCC_PREPEND_FLAGS=")) {
      continue;
    }
    out.emplace_back(text);
  }
  return out;
}

/// Reads until the writers are gone. Returns false at the deadline.
bool read_all(int from, Clock::time_point deadline, std::string& text) {
  char buffer[4096];
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd wait = {from, POLLIN, 0};
    if (poll(&wait, 1, static_cast<int>(std::min<long long>(left, 1000))) <= 0) continue;
    const ssize_t count = read(from, buffer, sizeof buffer);
    if (count == 0 || (count < 0 && errno != EINTR)) return true;
    if (count > 0 && text.size() < kMaxOutput) text.append(buffer, static_cast<std::size_t>(count));
  }
}

}  // namespace

std::string ChildEnd::to_string() const {
  if (how == How::out_of_time) return "stopped at its time limit";
  if (how == How::killed) {
    return concat("killed by signal ", code, " (", strsignal(code), ")");
  }
  return concat("exit status ", code);
}

ChildEnd run_child(const std::vector<std::string>& command, const std::string& scratch,
                   std::chrono::milliseconds limit) {
  std::vector<std::string> words = command;
  std::vector<std::string> variables = environment(scratch);
  Pipe pipe;
  const SpawnOptions options(pipe.writer());
  pid_t child = 0;
  const int error = posix_spawn(&child, words[0].c_str(), options.files(), options.attributes(),
                                pointers(words).data(), pointers(variables).data());
  if (error != 0) refuse("cannot start " + words[0], error);
  pipe.close_writer();

  ChildEnd end;
  const bool in_time = read_all(pipe.reader(), Clock::now() + limit, end.output);
  if (!in_time) kill(-child, SIGKILL);
  int status = 0;
  pid_t waited = 0;
  do {
    waited = waitpid(child, &status, 0);
  } while (waited < 0 && errno == EINTR);
  if (!in_time) {
    end.how = ChildEnd::How::out_of_time;
  } else if (waited == child && WIFSIGNALED(status)) {
    end.how = ChildEnd::How::killed;
    end.code = WTERMSIG(status);
  } else if (waited == child) {
    end.code = WEXITSTATUS(status);
  }  // else the caller ignores SIGCHLD, and only what the child wrote tells how it went
  return end;
}

}  // namespace octavo::cuda
