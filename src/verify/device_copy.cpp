#include "verify/device_copy.h"

#include "cuda/device.h"

namespace octavo::verify {
namespace {

constexpr std::size_t kAlignment = 256;  // of a workspace, and of a device's allocations

}  // namespace

DeviceCopy::DeviceCopy(Case& c, const Device& device)
    : ordinal_(device.ordinal), arguments_(c.arguments()) {
  for (const Case::Block& block : c.blocks()) {
    const std::size_t offset = reinterpret_cast<std::uintptr_t>(block.bytes.data()) % kAlignment;
    twins_.push_back({block, cuda::Buffer(ordinal_, offset + block.bytes.size()), offset});
    twins_.back().memory.write(offset, block.bytes.data(), block.bytes.size());
  }
  Arguments& a = arguments_;
  const auto move_view = [&](auto& view) {
    view.data = twin_of(static_cast<std::byte*>(view.data));
  };
  move_view(a.q);
  move_view(a.k);
  move_view(a.v);
  move_view(a.out);
  move_view(a.lse);
  a.page_table.data = twin_of(a.page_table.data);
  a.mask_bits.data = twin_of(a.mask_bits.data);
  const auto move_span = [&](auto& span) { span = {twin_of(span.data()), span.size()}; };
  move_span(a.q_lens);
  move_span(a.kv_lens);
  move_span(a.sinks);
  move_span(a.alibi_slopes);
  for (Scale* scale : {&a.q_scale, &a.k_scale, &a.v_scale, &a.out_scale}) move_span(scale->values);
  move_span(a.workspace);
  wait();
}

void DeviceCopy::wait() const {
  const cuda::CurrentContext context(ordinal_);
  cuda::check(cuda::driver().stream_wait(nullptr), "cuStreamSynchronize",
              "while waiting for the default stream");
}

template <typename Value>
Value* DeviceCopy::twin_of(Value* host) const {
  const auto address = reinterpret_cast<std::uintptr_t>(host);
  for (const Twin& twin : twins_) {
    const std::uintptr_t at = address - reinterpret_cast<std::uintptr_t>(twin.host.bytes.data());
    if (at < twin.host.bytes.size()) return reinterpret_cast<Value*>(twin.data() + at);
  }
  return nullptr;
}

void DeviceCopy::bring_back() {
  wait();
  for (const Twin& twin : twins_) {
    if (!twin.host.written) continue;
    twin.memory.read(twin.offset, twin.host.bytes.data(), twin.host.bytes.size());
  }
}

Workspace gpu_workspace(const Plan& plan) {
  return {.size = plan.workspace_size(), .alignment = kAlignment, .optional = false};
}

}  // namespace octavo::verify
