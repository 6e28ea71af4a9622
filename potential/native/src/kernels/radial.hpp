// What multiplies the rows of a filter table on an edge: values and slopes of B-splines, or the radial functions.
#pragma once

#include "geometry.hpp"

namespace hydrapot {
namespace HYDRAPOT_ISA {

// The six uniform quintic B-splines that do not vanish at a point x = 1 − y of a cell, and their slopes; C⁴, so energy and
// force belong together. `step` is the number of knots per Å.
template <class T>
HYDRAPOT_INLINE void spline_values(Vec<T> x, Vec<T>* w) {
    const Vec<T> y = T(1) - x, x2 = x * x, y2 = y * y;
    constexpr T a = T(1) / T(120);
    w[0] = a * (y2 * y2 * y);
    w[1] = a * (T(26) + x * (T(-50) + x * (T(20) + x * (T(20) + x * (T(-20) + x * T(5))))));
    w[2] = a * (T(66) + x2 * (T(-60) + x2 * (T(30) - T(10) * x)));
    w[3] = a * (T(66) + y2 * (T(-60) + y2 * (T(30) - T(10) * y)));
    w[4] = a * (T(26) + y * (T(-50) + y * (T(20) + y * (T(20) + y * (T(-20) + y * T(5))))));
    w[5] = a * (x2 * x2 * x);
}

template <class T>
HYDRAPOT_INLINE void spline_slopes(Vec<T> x, T step, Vec<T>* slope) {
    const Vec<T> y = T(1) - x, x2 = x * x, y2 = y * y;
    const T b = step / T(24);
    slope[0] = -b * (y2 * y2);
    slope[1] = b * (T(-10) + x * (T(8) + x * (T(12) + x * (T(-16) + x * T(5)))));
    slope[2] = b * (x * (T(-24) + x2 * (T(24) - T(10) * x)));
    slope[3] = -b * (y * (T(-24) + y2 * (T(24) - T(10) * y)));
    slope[4] = -b * (T(-10) + y * (T(8) + y * (T(12) + y * (T(-16) + y * T(5)))));
    slope[5] = b * (x2 * x2);
}

// Cells and weights of `count` edges, a vector of edges at a time.
template <class T, bool SLOPES>
HYDRAPOT_INLINE void spline_weights(const Shape<T>& shape, const Edge<T>* edges, int count, int* cells, T* weights,
                                    T* slopes) {
    constexpr int L = Simd<T>::lanes;
    const T step = static_cast<T>(shape.inverse_step);
    for (int first = 0; first < count; first += L) {
        const int n = count - first < L ? count - first : L;
        Vec<T> x = zero<T>(), w[spline_rows], d[spline_rows];
        for (int l = 0; l < n; ++l) {
            const T t = edges[first + l].r * step;
            int cell = static_cast<int>(t);
            cell = cell < shape.cells ? cell : shape.cells - 1;
            cells[first + l] = cell;
            x[l] = t - static_cast<T>(cell);
        }
        spline_values<T>(x, w);
        if (SLOPES) {
            spline_slopes<T>(x, step, d);
        }
        for (int l = 0; l < n; ++l) {
#pragma GCC unroll 8
            for (int m = 0; m < spline_rows; ++m) {
                weights[spline_rows * (first + l) + m] = w[m][l];
                if (SLOPES) {
                    slopes[spline_rows * (first + l) + m] = d[m][l];
                }
            }
        }
    }
}

// Radial functions √(2/r_c) sin(nπr/r_c)/r · envelope(r) and slopes, n = 1 … R (potential/radial.py); sines and cosines
// of multiples by rotation, whose rounding grows like n. Evaluated in float64 in either precision.
template <class T>
void bessel_weights(const Shape<T>& shape, double r, T* w, T* slope) {
    const double pi = 3.14159265358979323846;
    const double cutoff = shape.cutoff, k = pi / cutoff;
    const double x = r / cutoff, rest = x < 1.0 ? 1.0 - x : 0.0;
    const double envelope = rest * rest * rest * (1.0 + x * (3.0 + 6.0 * x));
    const double envelope_slope = -30.0 * x * x * rest * rest / cutoff;
    const double scale = __builtin_sqrt(2.0 / cutoff) / r;
    const double s1 = sin(k * r), c1 = cos(k * r);
    double s = s1, c = c1;
    for (int n = 0; n < shape.R; ++n) {
        w[n] = static_cast<T>(scale * s * envelope);
        slope[n] = static_cast<T>(scale * ((n + 1) * k * c * envelope + s * (envelope_slope - envelope / r)));
        const double next = s * c1 + c * s1;
        c = c * c1 - s * s1;
        s = next;
    }
}

// Weights, and slopes if wanted, of the edges of atoms [first, first + count), one after the other.
template <class T, bool SLOPES>
void prepare_edges(const Pass<T>& p, Scratch<T>& s, Index first, int count) {
    Index n = 0;
    for (Index i = first; i < first + count; ++i) {
        const Edge<T>* edges = p.edges + p.offsets[i];
        const int degree = p.degree[i];
        const Index at = p.shape.rows * n;
        if (p.shape.spline) {
            spline_weights<T, SLOPES>(p.shape, edges, degree, s.cells + n, s.weights + at, s.slopes + at);
        } else {
            for (int e = 0; e < degree; ++e) {
                s.cells[n + e] = 0;
                const Index row = at + Index(p.shape.rows) * e;
                bessel_weights<T>(p.shape, static_cast<double>(edges[e].r), s.weights + row, s.slopes + row);
            }
        }
        n += degree;
    }
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
