// What multiplies the rows of a filter table on an edge: values and slopes of B-splines, or the radial functions.
#pragma once

#include "geometry.hpp"

namespace hydrapot {
namespace HYDRAPOT_ISA {

// The six uniform quintic B-splines that do not vanish at a distance, and their slopes; C⁴, so energy and force belong
// together.
template <class T>
HYDRAPOT_INLINE int spline_weights(const Shape<T>& shape, T r, T* w, T* slope) {
    const T step = static_cast<T>(shape.inverse_step);
    const T t = r * step;
    int cell = static_cast<int>(t);
    cell = cell < shape.cells ? cell : shape.cells - 1;
    const T x = t - static_cast<T>(cell), y = T(1) - x;
    const T x2 = x * x, y2 = y * y, x4 = x2 * x2, y4 = y2 * y2;
    const T a = T(1) / T(120), b = step / T(24);
    w[0] = a * y4 * y;
    w[1] = a * (T(26) + x * (T(-50) + x * (T(20) + x * (T(20) + x * (T(-20) + x * T(5))))));
    w[2] = a * (T(66) + x2 * (T(-60) + x2 * (T(30) - T(10) * x)));
    w[3] = a * (T(66) + y2 * (T(-60) + y2 * (T(30) - T(10) * y)));
    w[4] = a * (T(26) + y * (T(-50) + y * (T(20) + y * (T(20) + y * (T(-20) + y * T(5))))));
    w[5] = a * x4 * x;
    slope[0] = -b * y4;
    slope[1] = b * (T(-10) + x * (T(8) + x * (T(12) + x * (T(-16) + x * T(5)))));
    slope[2] = b * x * (T(-24) + x2 * (T(24) - T(10) * x));
    slope[3] = -b * y * (T(-24) + y2 * (T(24) - T(10) * y));
    slope[4] = -b * (T(-10) + y * (T(8) + y * (T(12) + y * (T(-16) + y * T(5)))));
    slope[5] = b * x4;
    return cell;
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

// Weights of the edges of atoms [first, first + count), one after the other; returns nothing, edges are counted alike
// everywhere.
template <class T>
void prepare_edges(const Pass<T>& p, Scratch<T>& s, Index first, int count) {
    int n = 0;
    for (Index i = first; i < first + count; ++i) {
        const Edge<T>* edges = p.edges + p.offsets[i];
        const int degree = p.degree[i];
        if (p.shape.spline) {
            for (int e = 0; e < degree; ++e, ++n) {
                s.cells[n] = spline_weights<T>(p.shape, edges[e].r, s.weights + spline_rows * n, s.slopes + spline_rows * n);
            }
        } else {
            for (int e = 0; e < degree; ++e, ++n) {
                s.cells[n] = 0;
                bessel_weights<T>(p.shape, static_cast<double>(edges[e].r), s.weights + Index(p.shape.rows) * n,
                                  s.slopes + Index(p.shape.rows) * n);
            }
        }
    }
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
