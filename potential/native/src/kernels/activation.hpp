// SiLU and its derivative on vectors: x·σ(x), σ(x) = 1/(1 + e^−x).
#pragma once

#include "simd.hpp"

namespace hydrapot {
namespace HYDRAPOT_ISA {

// e^x to one or two units in the last place: x = k ln 2 + r, |r| ≤ ln(2)/2, Taylor series of e^r, exponent set by bits.
// Adding 1.5·2^(digits of the significand) rounds to whole numbers and leaves k in the low bits. Arguments are clamped to
// where the result is a normal number.
HYDRAPOT_INLINE Vec<float> exponential(Vec<float> x) {
    using V = Vec<float>;
    using M = Simd<float>::Mask;
    const V low = zero<float>() - 87.0f, high = zero<float>() + 88.0f;
    x = x < low ? low : x;
    x = x > high ? high : x;
    const V shifted = x * 1.44269504088896341f + 12582912.0f;
    const V k = shifted - 12582912.0f;
    V r = x - k * 0.693145751953125f;
    r = r - k * 1.428606765330187e-6f;
    V p = r * (1.0f / 5040.0f) + (1.0f / 720.0f);
    p = p * r + (1.0f / 120.0f);
    p = p * r + (1.0f / 24.0f);
    p = p * r + (1.0f / 6.0f);
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const M scale = ((M)shifted << 23) + (127 << 23);
    return p * (V)scale;
}

HYDRAPOT_INLINE Vec<double> exponential(Vec<double> x) {
    using V = Vec<double>;
    using M = Simd<double>::Mask;
    const V low = zero<double>() - 708.0, high = zero<double>() + 709.0;
    x = x < low ? low : x;
    x = x > high ? high : x;
    const V shifted = x * 1.4426950408889634074 + 6755399441055744.0;
    const V k = shifted - 6755399441055744.0;
    V r = x - k * 6.93147180369123816490e-1;
    r = r - k * 1.90821492927058770002e-10;
    V p = r * (1.0 / 6227020800.0) + (1.0 / 479001600.0);
    p = p * r + (1.0 / 39916800.0);
    p = p * r + (1.0 / 3628800.0);
    p = p * r + (1.0 / 362880.0);
    p = p * r + (1.0 / 40320.0);
    p = p * r + (1.0 / 5040.0);
    p = p * r + (1.0 / 720.0);
    p = p * r + (1.0 / 120.0);
    p = p * r + (1.0 / 24.0);
    p = p * r + (1.0 / 6.0);
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    const M scale = ((M)shifted << 52) + (int64_t(1023) << 52);
    return p * (V)scale;
}

template <class T>
HYDRAPOT_INLINE Vec<T> sigmoid(Vec<T> x) {
    return T(1) / (T(1) + exponential(-x));
}

template <class T>
HYDRAPOT_INLINE Vec<T> silu(Vec<T> x) {
    return x * sigmoid<T>(x);
}

template <class T>
HYDRAPOT_INLINE Vec<T> silu_slope(Vec<T> x) {
    const Vec<T> s = sigmoid<T>(x);
    return s * (T(1) + x * (T(1) - s));
}

// out = silu(in) for `rows` rows of `n`; `copy` (may be null) receives the arguments.
template <class T>
void silu_rows(const T* in, Index ldin, int rows, int n, T* out, Index ldout, T* copy, Index ldcopy) {
    for (int a = 0; a < rows; ++a) {
        for (int f = 0; f < n; f += Simd<T>::lanes) {
            const Vec<T> x = load<T>(in + a * ldin + f);
            store<T>(out + a * ldout + f, silu<T>(x));
            if (copy) {
                store<T>(copy + a * ldcopy + f, x);
            }
        }
    }
}

// gradient *= silu'(argument)
template <class T>
void silu_slope_rows(const T* argument, Index ldarg, int rows, int n, const T* in, Index ldin, T* out, Index ldout) {
    for (int a = 0; a < rows; ++a) {
        for (int f = 0; f < n; f += Simd<T>::lanes) {
            const Vec<T> slope = silu_slope<T>(load<T>(argument + a * ldarg + f));
            store<T>(out + a * ldout + f, slope * load<T>(in + a * ldin + f));
        }
    }
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
