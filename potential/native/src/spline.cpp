#include "spline.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace hydrapot {

std::vector<double> radial_functions(double r, double cutoff, int count) {
    const double pi = 3.14159265358979323846;
    const double x = r / cutoff, rest = x < 1.0 ? 1.0 - x : 0.0;
    const double envelope = std::sqrt(2.0 / cutoff) * rest * rest * rest * (1.0 + x * (3.0 + 6.0 * x));
    std::vector<double> values(count);
    for (int n = 0; n < count; ++n) {
        const double k = (n + 1) * pi / cutoff;
        values[n] = envelope * (r > 0 ? std::sin(k * r) / r : k);
    }
    return values;
}

namespace {

// Solves a·x = b, a of `size` rows with entries a[r][c − r + band] for |c − r| ≤ band, by elimination with pivots from
// the rows below (which widens the upper band to twice its width); b (size, count) becomes x.
void solve_banded(std::vector<double>& a, std::vector<double>& b, int size, int band, int count) {
    const int width = 3 * band + 1;
    const auto at = [&](int r, int c) -> double& { return a[static_cast<size_t>(r) * width + (c - r + band)]; };
    for (int k = 0; k < size; ++k) {
        const int below = std::min(size - 1, k + band), right = std::min(size - 1, k + 2 * band);
        int pivot = k;
        for (int r = k + 1; r <= below; ++r) {
            pivot = std::abs(at(r, k)) > std::abs(at(pivot, k)) ? r : pivot;
        }
        if (pivot != k) {
            for (int c = k; c <= right; ++c) {
                std::swap(at(k, c), at(pivot, c));
            }
            std::swap_ranges(b.begin() + static_cast<std::ptrdiff_t>(k) * count,
                             b.begin() + static_cast<std::ptrdiff_t>(k + 1) * count,
                             b.begin() + static_cast<std::ptrdiff_t>(pivot) * count);
        }
        for (int r = k + 1; r <= below; ++r) {
            const double factor = at(r, k) / at(k, k);
            if (factor == 0) {
                continue;
            }
            for (int c = k; c <= right; ++c) {
                at(r, c) -= factor * at(k, c);
            }
            for (int q = 0; q < count; ++q) {
                b[static_cast<size_t>(r) * count + q] -= factor * b[static_cast<size_t>(k) * count + q];
            }
        }
    }
    for (int k = size - 1; k >= 0; --k) {
        for (int q = 0; q < count; ++q) {
            double value = b[static_cast<size_t>(k) * count + q];
            for (int c = k + 1; c <= std::min(size - 1, k + 2 * band); ++c) {
                value -= at(k, c) * b[static_cast<size_t>(c) * count + q];
            }
            b[static_cast<size_t>(k) * count + q] = value / at(k, k);
        }
    }
}

}  // namespace

std::vector<double> spline_coefficients(double cutoff, int count, int intervals) {
    // Values, first and second derivatives (in steps) of the five splines at a knot.
    const double value[5] = {1. / 120, 26. / 120, 66. / 120, 26. / 120, 1. / 120};
    const double slope[5] = {-1. / 24, -10. / 24, 0, 10. / 24, 1. / 24};
    const double curvature[5] = {1. / 6, 2. / 6, -1, 2. / 6, 1. / 6};
    const int n = intervals, size = n + 5, band = 4, width = 3 * band + 1;
    const double step = cutoff / n, pi = 3.14159265358979323846;
    std::vector<double> a(static_cast<size_t>(size) * width, 0.0), c(static_cast<size_t>(size) * count, 0.0);
    const auto equation = [&](int row, int knot, const double* weights) {
        for (int m = 0; m < 5; ++m) {
            a[static_cast<size_t>(row) * width + (knot + m - row + band)] = weights[m];
        }
    };
    // Rows: value, slope, curvature at 0; values inside; curvature, slope, value at the cutoff.
    for (int knot = 0; knot <= n; ++knot) {
        const int row = knot == 0 ? 0 : knot == n ? n + 4 : knot + 2;
        equation(row, knot, value);
        const std::vector<double> values = radial_functions(knot == n ? cutoff : step * knot, cutoff, count);
        for (int q = 0; q < count; ++q) {
            c[static_cast<size_t>(row) * count + q] = values[q];
        }
    }
    equation(1, 0, slope);
    equation(2, 0, curvature);
    equation(n + 2, n, curvature);
    equation(n + 3, n, slope);
    for (int q = 0; q < count; ++q) {
        const double k = (q + 1) * pi / cutoff;
        c[static_cast<size_t>(2) * count + q] = -std::sqrt(2.0 / cutoff) * k * k * k / 3.0 * step * step;
    }
    solve_banded(a, c, size, band, count);
    return c;
}

}  // namespace hydrapot
