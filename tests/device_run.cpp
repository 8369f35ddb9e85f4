#include "device_run.h"

#include <cstring>
#include <deque>
#include <vector>

#include "cuda/buffer.h"
#include "cuda/device.h"

namespace octavo::tests {
namespace {

constexpr std::size_t kAlignment = 256;

/// The memory that views of a run lead to, on a GPU; each view's by itself.
class Twins {
 public:
  explicit Twins(int ordinal) : ordinal_(ordinal) {}

  /// The twin's address of `bytes` bytes at `host`.
  template <typename Value>
  Value* copy(Value* host, std::size_t bytes, bool written = false) {
    if (bytes == 0) return nullptr;
    const std::size_t offset = reinterpret_cast<std::uintptr_t>(host) % kAlignment;
    twins_.emplace_back(
        cuda::Buffer(ordinal_, offset + bytes), offset, bytes,
        written ? const_cast<std::byte*>(reinterpret_cast<const std::byte*>(host)) : nullptr);
    twins_.back().memory.write(offset, host, bytes);
    return reinterpret_cast<Value*>(twins_.back().memory.data() + offset);
  }
  template <int Rank>
  void move(TensorView<Rank>& view, bool written = false) {
    std::int64_t elements = 1;
    for (int axis = 0; axis < Rank; ++axis) {
      if (view.shape[axis] == 0) return;
      elements += (view.shape[axis] - 1) * view.stride[axis];
    }
    const std::size_t bytes = static_cast<std::size_t>(elements) * size_of(view.dtype);
    view.data = copy(static_cast<std::byte*>(view.data), bytes, written);
  }
  template <typename Value>
  void move(std::span<Value>& values) {
    values = {copy(values.data(), values.size_bytes()), values.size()};
  }

  void bring_back() const {
    for (const Twin& twin : twins_) {
      if (twin.host != nullptr) twin.memory.read(twin.offset, twin.host, twin.bytes);
    }
  }

 private:
  struct Twin {
    Twin(cuda::Buffer buffer, std::size_t begin, std::size_t size, std::byte* target)
        : memory(std::move(buffer)), offset(begin), bytes(size), host(target) {}
    cuda::Buffer memory;
    std::size_t offset;
    std::size_t bytes;
    std::byte* host;  ///< null: read only
  };
  int ordinal_;
  std::deque<Twin> twins_;
};

void run_on_gpu(const Plan& plan, const Arguments& arguments) {
  Arguments a = arguments;
  Twins twins(plan.device().ordinal);
  twins.move(a.q);
  twins.move(a.k);
  twins.move(a.v);
  twins.move(a.out, true);
  twins.move(a.lse, true);
  if (a.page_table.data != nullptr && a.page_table.requests > 0) {
    const std::int64_t ids =
        (a.page_table.requests - 1) * a.page_table.stride + a.page_table.columns;
    a.page_table.data =
        twins.copy(a.page_table.data, static_cast<std::size_t>(ids) * sizeof(std::int32_t));
  }
  twins.move(a.q_lens);
  twins.move(a.kv_lens);
  twins.move(a.sinks);
  twins.move(a.alibi_slopes);
  a.mask_bits.data = twins.copy(a.mask_bits.data,
                                static_cast<std::size_t>(a.mask_bits.rows * a.mask_bits.row_bytes));
  for (Scale* scale : {&a.q_scale, &a.k_scale, &a.v_scale, &a.out_scale}) twins.move(scale->values);
  cuda::Buffer workspace(plan.device().ordinal, plan.workspace_size());
  const std::vector<std::byte> garbage(plan.workspace_size(), std::byte{0xff});
  workspace.write(0, garbage.data(), garbage.size());
  a.workspace = {workspace.data(), workspace.size()};
  plan.run(a, Stream{});
  const cuda::CurrentContext context(plan.device().ordinal);
  cuda::check(cuda::driver().stream_wait(nullptr), "cuStreamSynchronize", "after a run of a test");
  twins.bring_back();
}

}  // namespace

void run_on_device(const Plan& plan, const Arguments& arguments, Executor& executor) {
  if (plan.device().is_cpu()) {
    plan.run(arguments, executor);
  } else {
    run_on_gpu(plan, arguments);
  }
}

bool has_gpu() {
  static const bool found = [] {
    try {
      return gpu_count() > 0;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unavailable) throw;
      return false;
    }
  }();
  return found;
}

}  // namespace octavo::tests
