#pragma once

#include "cuda/kernels/portable/params.h"
#include "cuda/tiled.h"

// The launches of cuda_portable, which kernels for one architecture borrow for rows too few for
// their own instructions.
namespace octavo::cuda {

/// The tile of so many rows, 16, 64 or 128.
TileShape portable_tile(const Problem& problem, const Device& device, int rows);

Splitting portable_splitting(const Problem& problem, const RowClass& row_class,
                             const Device& device);

Variant portable_variant(const Problem& problem, const TileShape& tile);

TiledLaunch portable_launch(const Problem& problem, const Device& device,
                            const RowClass& row_class);

PortableParams portable_params(const StreamCall& call);

}  // namespace octavo::cuda
