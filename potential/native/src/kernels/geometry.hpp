// Geometry in float64: which neighbors are within the cutoff, unit vectors, short-range repulsion, forces and virials.
#pragma once

#include "simd.hpp"

#include "../plan.hpp"

extern "C" double exp(double) noexcept;
extern "C" double sin(double) noexcept;
extern "C" double cos(double) noexcept;

namespace hydrapot {
namespace HYDRAPOT_ISA {

// Å; two atoms closer than this cannot be told apart (potential/neighbors.py has the same).
constexpr double minimum_distance = 1e-3;

// Adds g = ∂E/∂r of an edge r (receiver i, sender j) to forces and virials: potential/derivatives.py has the signs.
template <class T>
HYDRAPOT_INLINE void add_edge_gradient(Scratch<T>& s, int structure, Index i, Index j, const double* g,
                                       const double* r) {
    double* fi = s.forces + 3 * i;
    double* fj = s.forces + 3 * j;
    for (int a = 0; a < 3; ++a) {
        fi[a] += g[a];
        fj[a] -= g[a];
    }
    double* total = s.virial + 9 * structure;
    for (int a = 0; a < 3; ++a) {
        for (int b = 0; b < 3; ++b) {
            total[3 * a + b] += g[a] * r[b];
        }
    }
    if (s.virials) {
        double* share = s.virials + 9 * i;
        for (int a = 0; a < 3; ++a) {
            for (int b = 0; b < 3; ++b) {
                share[3 * a + b] += g[a] * r[b];
            }
        }
    }
}

// Half of the energy of a pair (potential/repulsion.py) and its derivative with respect to the distance.
HYDRAPOT_INLINE double half_repulsion(double zi, double zj, double reciprocal_length, double range, double r,
                                      double* slope) {
    constexpr double coulomb = 14.399645478425668;  // e²/(4πε₀), eV Å
    constexpr double amplitude[4] = {0.18175, 0.50986, 0.28022, 0.02817};
    constexpr double decay[4] = {3.19980, 0.94229, 0.40290, 0.20162};
    double screening = 0, screening_slope = 0;
    for (int k = 0; k < 4; ++k) {
        const double term = amplitude[k] * exp(-decay[k] * reciprocal_length * r);
        screening += term;
        screening_slope -= decay[k] * reciprocal_length * term;
    }
    const double x = r / range, rest = 1.0 - x;
    const double smooth = rest * rest * rest * (1.0 + x * (3.0 + 6.0 * x));
    const double smooth_slope = -30.0 * x * x * rest * rest / range;
    const double bare = 0.5 * coulomb * zi * zj / r;
    *slope = bare * (screening_slope * smooth + screening * smooth_slope - screening * smooth / r);
    return bare * screening * smooth;
}

// Edges of atom i within the cutoff; sets its energy to that of the repulsion.
template <class T>
void build_row(const Pass<T>& p, Scratch<T>& s, Index i) {
    const int64_t begin = p.offsets[i], end = p.offsets[i + 1];
    const double cutoff = p.shape.cutoff;
    const int structure = p.structure ? p.structure[i] : 0;
    const int zi = p.numbers[i];
    int degree = 0;
    double energy = 0;
    for (int64_t e = begin; e < end; ++e) {
        const int64_t j = p.senders32 ? p.senders32[e] : p.senders64[e];
        if (j < 0 || j >= p.n_total) {
            s.status |= status_sender;
            continue;
        }
        double r[3];
        if (p.vectors) {
            for (int a = 0; a < 3; ++a) {
                r[a] = p.vectors[3 * e + a];
            }
        } else {
            for (int a = 0; a < 3; ++a) {
                r[a] = p.positions[3 * j + a] - p.positions[3 * i + a];
            }
            if (p.shifts) {
                const double* cell = p.cell + 9 * structure;
                for (int k = 0; k < 3; ++k) {
                    for (int a = 0; a < 3; ++a) {
                        r[a] += p.shifts[3 * e + k] * cell[3 * k + a];
                    }
                }
            }
        }
        const double square = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
        if (square >= cutoff * cutoff) {
            continue;
        }
        if (!(square >= minimum_distance * minimum_distance)) {
            s.status |= square == square ? status_coincident : status_not_finite;
            continue;
        }
        const double length = __builtin_sqrt(square), inverse = 1.0 / length;
        const int64_t slot = begin + degree++;
        p.sender[slot] = static_cast<int32_t>(j);
        p.edges[slot] = {static_cast<T>(r[0] * inverse), static_cast<T>(r[1] * inverse), static_cast<T>(r[2] * inverse),
                         static_cast<T>(length)};
        if (p.shape.repulsion) {
            const int zj = p.numbers[j];
            double range = p.shape.zbl_range[zi] + p.shape.zbl_range[zj];
            range = range < cutoff ? range : cutoff;
            if (length < range) {
                double slope;
                const double length_scale = p.shape.zbl_power[zi] + p.shape.zbl_power[zj];
                energy += half_repulsion(zi, zj, length_scale, range, length, &slope);
                if (p.gradients) {
                    double g[3];
                    for (int a = 0; a < 3; ++a) {
                        g[a] = slope * r[a] * inverse;
                    }
                    add_edge_gradient(s, structure, i, static_cast<Index>(j), g, r);
                }
            }
        }
    }
    p.degree[i] = degree;
    p.energies[i] = energy;
}

// Edge gradient from ∂E/∂r (sums[0]) and ∂E/∂r̂ (sums[1…3]) of an edge along the unit vector d of length r.
template <class T>
HYDRAPOT_INLINE void add_radial_and_angular(Scratch<T>& s, int structure, Index i, Index j, const T* sums,
                                            const double* d, double r) {
    const double along = sums[1] * d[0] + sums[2] * d[1] + sums[3] * d[2];
    const double inverse = 1.0 / r, radial = sums[0] - along * inverse;
    double g[3], vector[3];
    for (int a = 0; a < 3; ++a) {
        g[a] = radial * d[a] + sums[1 + a] * inverse;
        vector[a] = r * d[a];
    }
    add_edge_gradient(s, structure, i, j, g, vector);
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
