#include "block.h"

#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

namespace octavo::emulation {
namespace {

constexpr std::size_t kStackBytes = 256 * 1024;

struct Fiber {
  ucontext_t context{};
  Index index;
  bool done = false;
  std::deque<std::vector<LateCopy>> copies{1};  ///< groups; the last one is open
  std::deque<std::vector<std::function<void()>>> products{1};
};

/// Lanes that meet.
struct Meeting {
  Warp lanes{};
  void (*operation)(Warp&) = nullptr;
  std::vector<int> waiting;
};

/// An mbarrier.
struct CountingBarrier {
  int arrivals = 0;  ///< of a phase
  int missing = 0;
  std::int64_t bytes = 0;  ///< that are expected and not there
  unsigned phase = 0;
  std::vector<int> waiting;
};

/// A barrier with a number.
struct NumberedBarrier {
  int arrived = 0;
  std::vector<int> waiting;
};

struct BulkCopy {
  std::function<void()> copy;
  unsigned barrier;
  int bytes;
};

/// Stacks outlive their block: the next one takes them.
unsigned char* stacks(int threads) {
  thread_local std::vector<unsigned char> memory;
  const std::size_t needed = kStackBytes * static_cast<std::size_t>(threads);
  if (memory.size() < needed) memory.resize(needed);
  return memory.data();
}

class Block {
 public:
  Block(Index index, Index grid, int threads, std::span<unsigned char> shared,
        const std::function<void()>& kernel)
      : index_(index),
        grid_(grid),
        shared_(shared),
        kernel_(kernel),
        fibers_(threads),
        warps_((threads + kWarpLanes - 1) / kWarpLanes),
        random_(index.x + 7 * index.y + 49 * index.z + 1) {}

  void run();

  Index index() const { return index_; }
  Index grid() const { return grid_; }
  std::span<unsigned char> shared() const { return shared_; }
  Fiber& running() { return fibers_[running_]; }
  Meeting& warp() { return warps_[running_ / kWarpLanes]; }
  Lane& lane() { return warp().lanes[running_ % kWarpLanes]; }

  void together(void (*operation)(Warp&));
  bool barrier(bool flag);

  void init_barrier(unsigned address, int arrivals);
  void arrive(unsigned address, int expected_bytes);
  bool has_ended(unsigned address, unsigned parity);
  void wait_for(unsigned address, unsigned parity);
  void meet(int number, int threads, bool waits);
  void start_bulk_copy(BulkCopy copy) { bulk_copies_.push_back(std::move(copy)); }

 private:
  static void start();
  int draw();
  void wait_in(std::vector<int>& waiting);
  void wake(std::vector<int>& waiting);
  CountingBarrier& counting(unsigned address);
  void end_phase_if_complete(CountingBarrier& barrier);
  void finish_bulk_copy();

  Index index_;
  Index grid_;
  std::span<unsigned char> shared_;
  const std::function<void()>& kernel_;
  std::vector<Fiber> fibers_;
  std::vector<Meeting> warps_;
  std::vector<int> at_barrier_;
  bool flag_ = false;         ///< of those at the barrier
  bool agreed_flag_ = false;  ///< of those that left it last
  std::map<unsigned, CountingBarrier> counting_barriers_;
  std::map<int, NumberedBarrier> numbered_barriers_;
  std::vector<BulkCopy> bulk_copies_;
  std::vector<int> ready_;
  int running_ = 0;
  std::minstd_rand random_;
  ucontext_t outside_{};
  std::exception_ptr error_;
};

thread_local Block* current_block = nullptr;

void Block::run() {
  std::fill(shared_.begin(), shared_.end(), static_cast<unsigned char>(0xff));
  const int threads = static_cast<int>(fibers_.size());
  unsigned char* memory = stacks(threads);
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers_[i];
    fiber.index.x = static_cast<unsigned>(i);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = memory + i * kStackBytes;
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = &outside_;
    makecontext(&fiber.context, &Block::start, 0);
    ready_.push_back(i);
  }
  while (error_ == nullptr) {
    while (ready_.empty() && !bulk_copies_.empty()) finish_bulk_copy();
    if (ready_.empty()) break;
    running_ = draw();
    swapcontext(&outside_, &running().context);
  }
  if (error_ != nullptr) std::rethrow_exception(error_);
  if (!std::all_of(fibers_.begin(), fibers_.end(), [](const Fiber& f) { return f.done; })) {
    throw std::runtime_error("threads wait for others that never come");
  }
}

void Block::start() {
  Block& block = *current_block;
  try {
    block.kernel_();
  } catch (...) {
    block.error_ = std::current_exception();
  }
  block.running().done = true;
}

/// Takes one of those that are ready. Now and then a copy comes before.
int Block::draw() {
  if (!bulk_copies_.empty() && random_() % 16 == 0) finish_bulk_copy();
  std::swap(ready_[random_() % ready_.size()], ready_.back());
  const int drawn = ready_.back();
  ready_.pop_back();
  return drawn;
}

void Block::wait_in(std::vector<int>& waiting) {
  Fiber& self = running();
  waiting.push_back(running_);
  if (ready_.empty()) {
    swapcontext(&self.context, &outside_);
    return;
  }
  running_ = draw();
  swapcontext(&self.context, &running().context);
}

void Block::wake(std::vector<int>& waiting) {
  ready_.insert(ready_.end(), waiting.begin(), waiting.end());
  waiting.clear();
}

void Block::together(void (*operation)(Warp&)) {
  Meeting& meeting = warp();
  if (!meeting.waiting.empty() && meeting.operation != operation) {
    throw std::runtime_error("lanes of a warp wait in different operations");
  }
  meeting.operation = operation;
  if (meeting.waiting.size() + 1 < kWarpLanes) {
    wait_in(meeting.waiting);
    return;
  }
  operation(meeting.lanes);
  wake(meeting.waiting);
}

bool Block::barrier(bool flag) {
  flag_ = flag_ || flag;
  if (at_barrier_.size() + 1 < fibers_.size()) {
    wait_in(at_barrier_);
    return agreed_flag_;
  }
  agreed_flag_ = flag_;
  flag_ = false;
  wake(at_barrier_);
  return agreed_flag_;
}

CountingBarrier& Block::counting(unsigned address) {
  const auto found = counting_barriers_.find(address);
  if (found == counting_barriers_.end()) {
    throw std::runtime_error("a barrier that was not initialised");
  }
  return found->second;
}

void Block::init_barrier(unsigned address, int arrivals) {
  if (!counting_barriers_.try_emplace(address, CountingBarrier{arrivals, arrivals, 0, 0, {}})
           .second) {
    throw std::runtime_error("a barrier that was initialised before");
  }
}

void Block::end_phase_if_complete(CountingBarrier& barrier) {
  if (barrier.missing != 0 || barrier.bytes != 0) return;
  barrier.missing = barrier.arrivals;
  ++barrier.phase;
  wake(barrier.waiting);
}

void Block::arrive(unsigned address, int expected_bytes) {
  CountingBarrier& barrier = counting(address);
  if (barrier.missing == 0) throw std::runtime_error("more arrivals than a phase has");
  barrier.bytes += expected_bytes;
  --barrier.missing;
  end_phase_if_complete(barrier);
}

bool Block::has_ended(unsigned address, unsigned parity) {
  return counting(address).phase % 2 != parity;
}

void Block::wait_for(unsigned address, unsigned parity) {
  while (!has_ended(address, parity)) wait_in(counting(address).waiting);
}

void Block::meet(int number, int threads, bool waits) {
  NumberedBarrier& barrier = numbered_barriers_[number];
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    wake(barrier.waiting);
  } else if (waits) {
    wait_in(barrier.waiting);
  }
}

void Block::finish_bulk_copy() {
  std::swap(bulk_copies_[random_() % bulk_copies_.size()], bulk_copies_.back());
  const BulkCopy done = std::move(bulk_copies_.back());
  bulk_copies_.pop_back();
  done.copy();
  CountingBarrier& barrier = counting(done.barrier);
  barrier.bytes -= done.bytes;
  end_phase_if_complete(barrier);
}

}  // namespace

void run_block(Index block, Index grid, int threads, std::span<unsigned char> shared,
               const std::function<void()>& kernel) {
  Block running(block, grid, threads, shared, kernel);
  current_block = &running;
  running.run();
}

Index thread_index() { return current_block->running().index; }
Index block_index() { return current_block->index(); }
Index grid_size() { return current_block->grid(); }
std::span<unsigned char> shared_memory() { return current_block->shared(); }
Lane& lane() { return current_block->lane(); }
void together(void (*operation)(Warp&)) { current_block->together(operation); }
bool barrier(bool flag) { return current_block->barrier(flag); }

void init_barrier(unsigned address, int arrivals) {
  current_block->init_barrier(address, arrivals);
}
void arrive(unsigned address, int expected_bytes) {
  current_block->arrive(address, expected_bytes);
}
bool has_ended(unsigned address, unsigned parity) {
  return current_block->has_ended(address, parity);
}
void wait_for(unsigned address, unsigned parity) { current_block->wait_for(address, parity); }
void sync_at(int number, int threads) { current_block->meet(number, threads, true); }
void arrive_at(int number, int threads) { current_block->meet(number, threads, false); }

void start_product(std::function<void()> product) {
  current_block->running().products.back().push_back(std::move(product));
}
void close_products() { current_block->running().products.emplace_back(); }
void finish_products(std::size_t pending_groups) {
  auto& groups = current_block->running().products;
  while (groups.size() > pending_groups + 1) {
    for (const auto& product : groups.front()) product();
    groups.pop_front();
  }
}

void start_bulk_copy(std::function<void()> copy, unsigned barrier, int bytes) {
  current_block->start_bulk_copy({std::move(copy), barrier, bytes});
}

void start_copy(const LateCopy& copy) {
  const std::span<unsigned char> shared = current_block->shared();
  const bool aligned = copy.to % 16 == 0 && reinterpret_cast<std::uintptr_t>(copy.from) % 16 == 0;
  if (!aligned || copy.to + 16 > shared.size() || copy.bytes < 0 || copy.bytes > 16) {
    throw std::runtime_error("a copy that is misaligned, or beyond shared memory or 16 bytes");
  }
  std::memset(&shared[copy.to], 0xff, 16);  // nobody may look before the wait
  current_block->running().copies.back().push_back(copy);
}

void close_copies() { current_block->running().copies.emplace_back(); }

void finish_copies(std::size_t pending_groups) {
  auto& groups = current_block->running().copies;
  while (groups.size() > pending_groups + 1) {
    for (const LateCopy& copy : groups.front()) {
      unsigned char* to = &current_block->shared()[copy.to];
      std::memset(to, 0, 16);
      if (copy.bytes > 0) std::memcpy(to, copy.from, static_cast<std::size_t>(copy.bytes));
    }
    groups.pop_front();
  }
}

}  // namespace octavo::emulation
