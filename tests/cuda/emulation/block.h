#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

// One thread block at a time on one CPU thread. Each of its threads is a fiber that runs until it
// meets others, at a barrier or where a warp works together; which fiber goes on is drawn.
namespace octavo::emulation {

inline constexpr int kWarpLanes = 32;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

/// What a lane gives to its warp, and what it takes back.
struct Lane {
  std::array<std::uint64_t, 5> given;
  std::array<std::uint64_t, 2> taken;
  std::array<std::array<std::uint64_t, 5>, 4> shown;  ///< what it and three others gave
};
using Warp = std::array<Lane, kWarpLanes>;

/// Runs `kernel` in each of the block's threads. `shared`: what addresses in shared memory are
/// relative to, filled with ones before; may be empty. Throws std::runtime_error where threads wait
/// for others that never come, and what a thread throws.
void run_block(Index block, Index grid, int threads, std::span<unsigned char> shared,
               const std::function<void()>& kernel);

// For the thread that runs:

Index thread_index();
Index block_index();
Index grid_size();

/// The block's shared memory.
std::span<unsigned char> shared_memory();

/// The running thread's own place in its warp's exchange.
Lane& lane();

/// Waits for the other lanes of the warp; the last one does `operation` for all of them. Throws
/// std::runtime_error if a lane waits in another operation.
void together(void (*operation)(Warp&));

/// Waits for all threads of the block. Returns whether one of them came with `flag`.
bool barrier(bool flag);

/// A copy of the running thread into shared memory that happens when the thread waits for it.
struct LateCopy {
  std::size_t to;
  const void* from;
  int bytes;  ///< of 16; zeros after them
};
void start_copy(const LateCopy& copy);
void close_copies();
void finish_copies(std::size_t pending_groups);

// Barriers that count arrivals and bytes, by their addresses in shared memory.
void init_barrier(unsigned address, int arrivals);
void arrive(unsigned address, int expected_bytes);
/// Whether the phase before the one under way has that parity.
bool has_ended(unsigned address, unsigned parity);
void wait_for(unsigned address, unsigned parity);

/// Waits at barrier `number` for `threads` threads, or only arrives there.
void sync_at(int number, int threads);
void arrive_at(int number, int threads);

/// Work of the running thread that happens when it waits for the work's group.
void start_product(std::function<void()> product);
void close_products();
void finish_products(std::size_t pending_groups);

/// A copy into shared memory that happens at any time from now on, and then counts its bytes at a
/// barrier.
void start_bulk_copy(std::function<void()> copy, unsigned barrier, int bytes);

}  // namespace octavo::emulation
