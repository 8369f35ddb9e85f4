// wgmma: four warps multiply tiles that stand in shared memory, summed in fp32, since sm_90.
//
// D [64, N] has, in warp w of the four, rows 16 w to 16 w + 15, laid out as C of mma.sync in
// ptx/mma.h; A from registers is laid out as A of mma.sync there, with 16 columns a step. Tiles in
// shared memory have rows of 128 bytes whose eight 16-byte chunks are permuted: chunk c of row r
// stands at c ^ r % 8.
#pragma once

#include "ptx/ldmatrix.h"
#include "ptx/mma.h"

namespace octavo::cuda {

/// A tile as wgmma takes it: the halves of its description.
struct TileHandle {
  unsigned low;
  unsigned high;
};

/// The address is a multiple of 1024 bytes, plus 32 for each 16 columns further. Eight rows of 64
/// columns are together: `slab_step` bytes further are the next 64 columns, `row_step` bytes
/// further the next eight rows. The same for all lanes, as what follows from it: that is what
/// instructions read it from.
__device__ inline TileHandle tile_handle(unsigned address, int slab_step, int row_step) {
  constexpr unsigned kSwizzle128 = 1u << 30;
  return {(address & 0x3ffff) >> 4 | static_cast<unsigned>(slab_step >> 4) << 16,
          static_cast<unsigned>(row_step >> 4) | kSwizzle128};
}

/// The tile so many bytes further.
__device__ inline TileHandle advance(TileHandle tile, int bytes) {
  return {tile.low + static_cast<unsigned>(bytes >> 4), tile.high};
}

__device__ inline uint64_t describe(TileHandle tile) {
  return tile.low | static_cast<uint64_t>(tile.high) << 32;
}

/// Orders what was written to registers before the products that follow.
__device__ inline void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

/// Closes a group of products.
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Waits until at most `Pending` of the latest groups are under way.
template <int Pending>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

/// Keeps the compiler from moving uses of a register past this point.
__device__ inline void pin(float& value) { asm volatile("" : "+f"(value)::"memory"); }

// The sums of eight columns as operands, and their numbers in the text.
#define OCTAVO_TILE(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define OCTAVO_TILES_64                                                                           \
  OCTAVO_TILE(0), OCTAVO_TILE(1), OCTAVO_TILE(2), OCTAVO_TILE(3), OCTAVO_TILE(4), OCTAVO_TILE(5), \
      OCTAVO_TILE(6), OCTAVO_TILE(7)
#define OCTAVO_TILES_80 OCTAVO_TILES_64, OCTAVO_TILE(8), OCTAVO_TILE(9)
#define OCTAVO_TILES_96 OCTAVO_TILES_80, OCTAVO_TILE(10), OCTAVO_TILE(11)
#define OCTAVO_TILES_128 \
  OCTAVO_TILES_96, OCTAVO_TILE(12), OCTAVO_TILE(13), OCTAVO_TILE(14), OCTAVO_TILE(15)
#define OCTAVO_NUMBERS_64                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define OCTAVO_NUMBERS_80 \
  OCTAVO_NUMBERS_64       \
  ", %32, %33, %34, %35, %36, %37, %38, %39"
#define OCTAVO_NUMBERS_96 \
  OCTAVO_NUMBERS_80       \
  ", %40, %41, %42, %43, %44, %45, %46, %47"
#define OCTAVO_NUMBERS_128                                                   \
  OCTAVO_NUMBERS_96                                                          \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63"

// Products of 16 columns of A. `type`: as the instruction names it; operand numbers follow those of
// D.
#define OCTAVO_WGMMA_SHARED(n, type, na, nb, nadd)                                               \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " nadd ", 0; wgmma.mma_async.sync.aligned.m64n" #n \
               "k16.f32." type "." type " {" OCTAVO_NUMBERS_##n "}, " na ", " nb                 \
                                                                ", p, 1, 1, 0, 0;}"              \
               : OCTAVO_TILES_##n                                                                \
               : "l"(describe(a)), "l"(describe(b)), "r"(adds))
#define OCTAVO_WGMMA_REGISTERS(n, type, a0, a1, a2, a3, nb)                                       \
  asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n" #n         \
               "k16.f32." type "." type " {" OCTAVO_NUMBERS_##n "}, {" a0 ", " a1 ", " a2 ", " a3 \
                                                                "}, " nb ", p, 1, 1, 1;}"         \
               : OCTAVO_TILES_##n                                                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(describe(b)))

/// D = A . B^T of 16 columns, plus D where `adds` is not 0: A [64, 16] and B [Columns, 16] from
/// tiles in shared memory.
template <Half Kind, int Columns>
__device__ inline void multiply_shared(float (*d)[4], TileHandle a, TileHandle b, int adds) {
  static_assert(Columns == 64 || Columns == 80 || Columns == 96 || Columns == 128);
  if constexpr (Columns == 64 && Kind == Half::bf16) {
    OCTAVO_WGMMA_SHARED(64, "bf16", "%32", "%33", "%34");
  }
  if constexpr (Columns == 64 && Kind == Half::f16) {
    OCTAVO_WGMMA_SHARED(64, "f16", "%32", "%33", "%34");
  }
  if constexpr (Columns == 80 && Kind == Half::bf16) {
    OCTAVO_WGMMA_SHARED(80, "bf16", "%40", "%41", "%42");
  }
  if constexpr (Columns == 80 && Kind == Half::f16) {
    OCTAVO_WGMMA_SHARED(80, "f16", "%40", "%41", "%42");
  }
  if constexpr (Columns == 96 && Kind == Half::bf16) {
    OCTAVO_WGMMA_SHARED(96, "bf16", "%48", "%49", "%50");
  }
  if constexpr (Columns == 96 && Kind == Half::f16) {
    OCTAVO_WGMMA_SHARED(96, "f16", "%48", "%49", "%50");
  }
  if constexpr (Columns == 128 && Kind == Half::bf16) {
    OCTAVO_WGMMA_SHARED(128, "bf16", "%64", "%65", "%66");
  }
  if constexpr (Columns == 128 && Kind == Half::f16) {
    OCTAVO_WGMMA_SHARED(128, "f16", "%64", "%65", "%66");
  }
}

/// D += A . B of 16 rows of B: A [64, 16] from registers, B [16, Columns] from a tile whose rows
/// are the products' inner dimension.
template <Half Kind, int Columns>
__device__ inline void multiply_registers(float (*d)[4], const unsigned (&a)[4], TileHandle b) {
  static_assert(Columns == 64 || Columns == 80 || Columns == 96 || Columns == 128);
  if constexpr (Columns == 64 && Kind == Half::bf16) {
    OCTAVO_WGMMA_REGISTERS(64, "bf16", "%32", "%33", "%34", "%35", "%36");
  }
  if constexpr (Columns == 64 && Kind == Half::f16) {
    OCTAVO_WGMMA_REGISTERS(64, "f16", "%32", "%33", "%34", "%35", "%36");
  }
  if constexpr (Columns == 80 && Kind == Half::bf16) {
    OCTAVO_WGMMA_REGISTERS(80, "bf16", "%40", "%41", "%42", "%43", "%44");
  }
  if constexpr (Columns == 80 && Kind == Half::f16) {
    OCTAVO_WGMMA_REGISTERS(80, "f16", "%40", "%41", "%42", "%43", "%44");
  }
  if constexpr (Columns == 96 && Kind == Half::bf16) {
    OCTAVO_WGMMA_REGISTERS(96, "bf16", "%48", "%49", "%50", "%51", "%52");
  }
  if constexpr (Columns == 96 && Kind == Half::f16) {
    OCTAVO_WGMMA_REGISTERS(96, "f16", "%48", "%49", "%50", "%51", "%52");
  }
  if constexpr (Columns == 128 && Kind == Half::bf16) {
    OCTAVO_WGMMA_REGISTERS(128, "bf16", "%64", "%65", "%66", "%67", "%68");
  }
  if constexpr (Columns == 128 && Kind == Half::f16) {
    OCTAVO_WGMMA_REGISTERS(128, "f16", "%64", "%65", "%66", "%67", "%68");
  }
}

#undef OCTAVO_WGMMA_REGISTERS
#undef OCTAVO_WGMMA_SHARED
#undef OCTAVO_NUMBERS_128
#undef OCTAVO_TILES_128
#undef OCTAVO_NUMBERS_96
#undef OCTAVO_TILES_96
#undef OCTAVO_NUMBERS_80
#undef OCTAVO_TILES_80
#undef OCTAVO_NUMBERS_64
#undef OCTAVO_TILES_64
#undef OCTAVO_TILE

}  // namespace octavo::cuda
