// In place of the kernels' own.
#pragma once

namespace octavo::cuda {

template <int Registers>
void grow_registers() {}
template <int Registers>
void shrink_registers() {}

}  // namespace octavo::cuda
