// Products of a few rows with prepacked weights: C (+)= A·W (+ bias).
//
// W (k × n) is packed in panels of `PANEL` vectors of columns, [panel][k][column]; a tile of ROWS × PANEL accumulators
// stays in registers over the whole of k. With AVX-512 that is 6 × 64 floats: per step of k four loads of W, six
// broadcasts of A and 24 multiply-adds. The last panel may be narrower.
#pragma once

#include "../plan.hpp"
#include "simd.hpp"

namespace hydrapot {
namespace HYDRAPOT_ISA {

constexpr int ROWS = gemm_rows;
constexpr int PANEL = HYDRAPOT_PANEL_VECTORS;

template <class T, int NV>
HYDRAPOT_INLINE void gemm_tile(const T* __restrict a, std::ptrdiff_t lda, const T* __restrict b, int k,
                               const T* bias, bool accumulate, T* __restrict c, std::ptrdiff_t ldc) {
    constexpr int L = Simd<T>::lanes;
    Vec<T> sum[ROWS][NV];
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; ++m) {
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) {
            sum[m][v] = accumulate ? load<T>(c + m * ldc + v * L) : (bias ? load<T>(bias + v * L) : zero<T>());
        }
    }
    for (int step = 0; step < k; ++step) {
        Vec<T> row[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) {
            row[v] = load<T>(b + v * L);
        }
        b += NV * L;
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; ++m) {
            const T x = a[m * lda + step];
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) {
                sum[m][v] += x * row[v];
            }
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; ++m) {
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) {
            store<T>(c + m * ldc + v * L, sum[m][v]);
        }
    }
}

template <class T, int NV>
void gemm_panel(const T* a, std::ptrdiff_t lda, int rows, const T* b, int k, const T* bias, bool accumulate, T* c,
                std::ptrdiff_t ldc) {
    for (int first = 0; first < rows; first += ROWS) {
        gemm_tile<T, NV>(a + first * lda, lda, b, k, bias, accumulate, c + first * ldc, ldc);
    }
}

// Rows are rounded up to whole tiles: A and C have that many. `bias` may be null and is not used when accumulating.
template <class T>
void gemm(const T* a, std::ptrdiff_t lda, int rows, const Dense<T>& w, bool accumulate, T* c, std::ptrdiff_t ldc) {
    constexpr int L = Simd<T>::lanes;
    for (int column = 0; column < w.n; column += PANEL * L) {
        const int vectors = (w.n - column) / L;
        const T* b = w.packed + static_cast<std::ptrdiff_t>(column) * w.k;
        const T* bias = w.bias ? w.bias + column : nullptr;
        T* out = c + column;
        if (vectors >= PANEL) {
            gemm_panel<T, PANEL>(a, lda, rows, b, w.k, bias, accumulate, out, ldc);
        } else if (vectors == 3) {
            gemm_panel<T, 3>(a, lda, rows, b, w.k, bias, accumulate, out, ldc);
        } else if (vectors == 2) {
            gemm_panel<T, 2>(a, lda, rows, b, w.k, bias, accumulate, out, ldc);
        } else {
            gemm_panel<T, 1>(a, lda, rows, b, w.k, bias, accumulate, out, ldc);
        }
    }
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
