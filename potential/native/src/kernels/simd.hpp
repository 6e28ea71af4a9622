// Vectors of the widest registers of one instruction set, by the vector extensions of GCC and Clang.
//
// Included by the three kernels_*.cpp, each compiled with flags of its own. Everything here lives in the namespace
// HYDRAPOT_ISA (one per file) and nothing of the C++ library that has code is used: an inline function of
// the library, compiled here for AVX-512 and merged by the linker with its namesake elsewhere, would crash older
// processors.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef HYDRAPOT_ISA
#error "kernels_*.cpp defines HYDRAPOT_ISA and HYDRAPOT_VECTOR_BYTES"
#endif

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
#define HYDRAPOT_SHUFFLES 1
#endif

#define HYDRAPOT_INLINE inline __attribute__((always_inline))

namespace hydrapot {
namespace HYDRAPOT_ISA {

template <class T>
struct Simd;

template <>
struct Simd<float> {
    using Integer = int32_t;
    static constexpr int lanes = HYDRAPOT_VECTOR_BYTES / sizeof(float);
    typedef float Vector __attribute__((vector_size(HYDRAPOT_VECTOR_BYTES), may_alias));
    typedef int32_t Mask __attribute__((vector_size(HYDRAPOT_VECTOR_BYTES), may_alias));
};

template <>
struct Simd<double> {
    using Integer = int64_t;
    static constexpr int lanes = HYDRAPOT_VECTOR_BYTES / sizeof(double);
    typedef double Vector __attribute__((vector_size(HYDRAPOT_VECTOR_BYTES), may_alias));
    typedef int64_t Mask __attribute__((vector_size(HYDRAPOT_VECTOR_BYTES), may_alias));
};

constexpr int CHUNK = HYDRAPOT_CHUNK_VECTORS;  // vectors of channels that edge kernels take at a time

template <class T>
using Vec = typename Simd<T>::Vector;

// All arrays of the engine are aligned to 64 bytes and padded to whole vectors.
template <class T>
HYDRAPOT_INLINE Vec<T> load(const T* p) {
    return *reinterpret_cast<const Vec<T>*>(p);
}

template <class T>
HYDRAPOT_INLINE void store(T* p, Vec<T> v) {
    *reinterpret_cast<Vec<T>*>(p) = v;
}

template <class T>
HYDRAPOT_INLINE Vec<T> zero() {
    return Vec<T>{};
}

#if HYDRAPOT_VECTOR_BYTES == 64 && defined(__AVX512F__)
HYDRAPOT_INLINE Vec<float> square_root(Vec<float> x) { return (Vec<float>)_mm512_maskz_sqrt_ps(0xFFFF, (__m512)x); }
HYDRAPOT_INLINE Vec<double> square_root(Vec<double> x) { return (Vec<double>)_mm512_maskz_sqrt_pd(0xFF, (__m512d)x); }
#elif HYDRAPOT_VECTOR_BYTES == 32 && defined(__AVX__)
HYDRAPOT_INLINE Vec<float> square_root(Vec<float> x) { return (Vec<float>)_mm256_sqrt_ps((__m256)x); }
HYDRAPOT_INLINE Vec<double> square_root(Vec<double> x) { return (Vec<double>)_mm256_sqrt_pd((__m256d)x); }
#elif HYDRAPOT_VECTOR_BYTES == 16 && defined(__SSE2__)
HYDRAPOT_INLINE Vec<float> square_root(Vec<float> x) { return (Vec<float>)_mm_sqrt_ps((__m128)x); }
HYDRAPOT_INLINE Vec<double> square_root(Vec<double> x) { return (Vec<double>)_mm_sqrt_pd((__m128d)x); }
#else
template <class V>
HYDRAPOT_INLINE V square_root(V x) {
    V y = x;
    for (size_t l = 0; l < sizeof(V) / sizeof(x[0]); ++l) {
        y[l] = sizeof(x[0]) == 4 ? __builtin_sqrtf(x[l]) : __builtin_sqrt(x[l]);
    }
    return y;
}
#endif

template <class T>
HYDRAPOT_INLINE T sum_lanes(Vec<T> v) {
    T total = 0;
    for (int l = 0; l < Simd<T>::lanes; ++l) {
        total += v[l];
    }
    return total;
}

// Sums over the lanes of four vectors.
template <class T>
HYDRAPOT_INLINE void sum_lanes(Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d, T* sums) {
#if defined(HYDRAPOT_SHUFFLES) && HYDRAPOT_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) {
        const Vec<T> ab = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
                          __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
        const Vec<T> cd = __builtin_shufflevector(c, d, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
                          __builtin_shufflevector(c, d, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
        const Vec<T> all =
            __builtin_shufflevector(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
            __builtin_shufflevector(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
        const auto half = __builtin_shufflevector(all, all, 0, 1, 2, 3, 4, 5, 6, 7) +
                          __builtin_shufflevector(all, all, 8, 9, 10, 11, 12, 13, 14, 15);
        const auto quarter =
            __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
        for (int q = 0; q < 4; ++q) {
            sums[q] = quarter[q];
        }
        return;
    }
#elif defined(HYDRAPOT_SHUFFLES) && HYDRAPOT_VECTOR_BYTES == 32
    if constexpr (sizeof(T) == 4) {
        const Vec<T> ab = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
                          __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
        const Vec<T> cd = __builtin_shufflevector(c, d, 0, 8, 2, 10, 4, 12, 6, 14) +
                          __builtin_shufflevector(c, d, 1, 9, 3, 11, 5, 13, 7, 15);
        const Vec<T> all = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                           __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
        for (int q = 0; q < 4; ++q) {
            sums[q] = all[q] + all[q + 4];
        }
        return;
    }
#endif
    sums[0] = sum_lanes<T>(a);
    sums[1] = sum_lanes<T>(b);
    sums[2] = sum_lanes<T>(c);
    sums[3] = sum_lanes<T>(d);
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
