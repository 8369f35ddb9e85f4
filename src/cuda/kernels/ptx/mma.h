// mma.sync m16n8k16: products of 16-bit numbers on tensor cores, summed in fp32, since sm_80.
//
// Lane l holds, with g = l / 4 and t = l % 4:
//   A [16, 16]  a0: row g, columns 2t, 2t + 1; a1: row g + 8; a2, a3: the same, 8 columns further
//   B [16, 8]   b0: rows 2t, 2t + 1 of column g; b1: 8 rows further
//   C [16, 8]   c0, c1: row g, columns 2t, 2t + 1; c2, c3: row g + 8
// Two numbers of a register lie in order from its low half.
#pragma once

namespace octavo::cuda {

enum class Half { f16, bf16 };  ///< the 16-bit types that multiply

/// c += a . b
template <Half Kind>
__device__ inline void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                    unsigned b1) {
  if constexpr (Kind == Half::bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

}  // namespace octavo::cuda
