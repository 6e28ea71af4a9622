// The first layer, whose messages are sums of radial functions over the senders of each kind (see Kind in plan.hpp).
#pragma once

#include "gemm.hpp"
#include "radial.hpp"

namespace hydrapot {
namespace HYDRAPOT_ISA {

// Radial functions (and slopes) of edge n, `Rp` of them.
template <class T, bool SLOPES>
HYDRAPOT_INLINE void radial_functions(const Shape<T>& shape, const Scratch<T>& s, Index n, int f, Vec<T>* b,
                                      Vec<T>* slope) {
    constexpr int L = Simd<T>::lanes;
    if (shape.spline) {
        const T* t = shape.basis + Index(s.cells[n]) * shape.Rp + f;
        const T* w = s.weights + spline_rows * n;
        const T* d = s.slopes + spline_rows * n;
        Vec<T> x = zero<T>(), y = zero<T>();
#pragma GCC unroll 8
        for (int m = 0; m < spline_rows; ++m) {
            const Vec<T> row = load<T>(t + m * shape.Rp);
            x += w[m] * row;
            if (SLOPES) {
                y += d[m] * row;
            }
        }
        *b = x;
        if (SLOPES) {
            *slope = y;
        }
    } else {  // the weights are the functions, `R` of them, not padded
        Vec<T> x = {}, y = {};
        for (int l = 0; l < L && f + l < shape.R; ++l) {
            x[l] = s.weights[n * shape.R + f + l];
            if (SLOPES) {
                y[l] = s.slopes[n * shape.R + f + l];
            }
        }
        *b = x;
        if (SLOPES) {
            *slope = y;
        }
    }
}

// A⁰ of a kind slot: rows of Rp; A¹ behind them: rows (atom, component) of Rp.
template <class T>
HYDRAPOT_INLINE T* slot_sums(const Pass<T>& p, const Scratch<T>& s, int slot) {
    return s.sums + Index(slot) * s.rows * 4 * p.shape.Rp;
}

// Kinds of all senders in a block; returns how many.
template <class T>
int find_kinds(const Pass<T>& p, Scratch<T>& s, Index first, int count) {
    int n = 0;
    for (Index i = first; i < first + count; ++i) {
        for (int e = 0; e < p.degree[i]; ++e) {
            const int kind = p.kind[p.sender[p.offsets[i] + e]];
            if (s.slot_of_kind[kind] < 0) {
                s.slot_of_kind[kind] = n;
                s.kinds[n++] = kind;
            }
        }
    }
    return n;
}

template <class T>
void forget_kinds(Scratch<T>& s, int n) {
    for (int k = 0; k < n; ++k) {
        s.slot_of_kind[s.kinds[k]] = -1;
    }
}

// x: rows [s | H_s s] of 2F; y: rows (atom, component) [v | U v | V v] of 3F.
template <class T>
void first_forward(const Pass<T>& p, Scratch<T>& s, Index first, int count, int tile, T* x, T* y) {
    constexpr int L = Simd<T>::lanes;
    const int F = p.shape.F, Rp = p.shape.Rp;
    const int n_kinds = find_kinds(p, s, first, count);
    for (int slot = 0; slot < n_kinds; ++slot) {
        T* sums = slot_sums(p, s, slot);
        for (Index k = 0; k < Index(s.rows) * 4 * Rp; k += L) {
            store<T>(sums + k, zero<T>());
        }
    }
    for (int start = 0; start < count; start += tile) {
        const int stop = start + tile < count ? start + tile : count;
        prepare_edges<T, false>(p, s, first + start, stop - start);
        Index n = 0;
        for (int a = start; a < stop; ++a) {
            const Index i = first + a;
            for (int e = 0; e < p.degree[i]; ++e, ++n) {
                const Index slot = p.offsets[i] + e;
                T* sums = slot_sums(p, s, s.slot_of_kind[p.kind[p.sender[slot]]]);
                T* scalar = sums + Index(a) * Rp;
                T* vector = sums + (Index(s.rows) + 3 * a) * Rp;
                const Edge<T> edge = p.edges[slot];
                for (int f = 0; f < Rp; f += L) {
                    Vec<T> b;
                    radial_functions<T, false>(p.shape, s, n, f, &b, nullptr);
                    store<T>(scalar + f, load<T>(scalar + f) + b);
                    store<T>(vector + f, load<T>(vector + f) + edge.x * b);
                    store<T>(vector + Rp + f, load<T>(vector + Rp + f) + edge.y * b);
                    store<T>(vector + 2 * Rp + f, load<T>(vector + 2 * Rp + f) + edge.z * b);
                }
            }
        }
    }
    for (int a = 0; a < count; ++a) {
        const T* base = p.kinds[p.kind[first + a]]->base;
        for (int f = 0; f < 2 * F; f += L) {
            store<T>(x + Index(a) * 2 * F + f, load<T>(base + f));
        }
    }
    if (n_kinds == 0) {
        for (Index k = 0; k < Index(count) * 9 * F; k += L) {
            store<T>(y + k, zero<T>());
        }
    }
    for (int slot = 0; slot < n_kinds; ++slot) {
        const Kind<T>& kind = *p.kinds[s.kinds[slot]];
        const T* sums = slot_sums(p, s, slot);
        gemm<T>(sums, Rp, count, kind.scalar, true, x, 2 * F);
        gemm<T>(sums + Index(s.rows) * Rp, Rp, 3 * count, kind.vector, slot > 0, y, 3 * F);
    }
    forget_kinds(s, n_kinds);
}

// Edge gradients from those of x and y above.
template <class T>
void first_backward(const Pass<T>& p, Scratch<T>& s, Index first, int count, int tile, const T* x, const T* y) {
    constexpr int L = Simd<T>::lanes;
    const int F = p.shape.F, Rp = p.shape.Rp;
    const int n_kinds = find_kinds(p, s, first, count);
    for (int slot = 0; slot < n_kinds; ++slot) {
        const Kind<T>& kind = *p.kinds[s.kinds[slot]];
        T* sums = slot_sums(p, s, slot);
        gemm<T>(x, 2 * F, count, kind.scalar_t, false, sums, Rp);
        gemm<T>(y, 3 * F, 3 * count, kind.vector_t, false, sums + Index(s.rows) * Rp, Rp);
    }
    for (int start = 0; start < count; start += tile) {
        const int stop = start + tile < count ? start + tile : count;
        prepare_edges<T, true>(p, s, first + start, stop - start);
        Index n = 0;
        for (int a = start; a < stop; ++a) {
            const Index i = first + a;
            const int structure = p.structure ? p.structure[i] : 0;
            for (int e = 0; e < p.degree[i]; ++e, ++n) {
                const Index slot = p.offsets[i] + e;
                const Index j = p.sender[slot];
                const T* sums = slot_sums(p, s, s.slot_of_kind[p.kind[j]]);
                const T* scalar = sums + Index(a) * Rp;
                const T* vector = sums + (Index(s.rows) + 3 * a) * Rp;
                const Edge<T> edge = p.edges[slot];
                Vec<T> total[4] = {};
                for (int f = 0; f < Rp; f += L) {
                    Vec<T> b, slope;
                    radial_functions<T, true>(p.shape, s, n, f, &b, &slope);
                    const Vec<T> gx = load<T>(vector + f);
                    const Vec<T> gy = load<T>(vector + Rp + f);
                    const Vec<T> gz = load<T>(vector + 2 * Rp + f);
                    total[0] += slope * (load<T>(scalar + f) + edge.x * gx + edge.y * gy + edge.z * gz);
                    total[1] += b * gx;
                    total[2] += b * gy;
                    total[3] += b * gz;
                }
                T sum[4];
                sum_lanes<T>(total[0], total[1], total[2], total[3], sum);
                const double d[3] = {double(edge.x), double(edge.y), double(edge.z)};
                add_radial_and_angular<T>(s, structure, i, j, sum, d, double(edge.r));
            }
        }
    }
    forget_kinds(s, n_kinds);
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
