// Sums over neighbors of layers k ≥ 1 and their derivative, chunk of channels by chunk, nothing of size edges × F stored.
//
// Forward, for receiver i:     s_i += Σ_e w⁰_e c⁰_j,     v_i += Σ_e (w¹_e c¹_j r̂_e + w²_e c²_j v_j).
//
// The derivative gathers at the sender: atom j sums over its own row, whose edges (j ← i) are the reverses of the edges
// (i ← j) that it sends along; their unit vector is −r̂. With γ, Γ the gradients of s_i and v_i after the message,
//
//     t⁰ = γ_i,   t¹ = r̂·Γ_i,   t² = v_j·Γ_i,     ∂c_j = Σ w t,    ∂v_j = c²_j Σ w² Γ_i,
//     ∂E/∂r = Σ_f w′ c_j t,       ∂E/∂r̂ = Σ_f w¹ c¹_j Γ_i.
#pragma once

#include "radial.hpp"

namespace hydrapot {
namespace HYDRAPOT_ISA {

// Three filters, and their slopes if wanted, of the vectors of a chunk on an edge: [vector][part]. With splines each vector
// is made when it is asked for; radial functions are many, so all vectors take turns to hide the latency of the additions.
template <class T, bool SPLINE, bool SLOPES>
class Filters {
  public:
    HYDRAPOT_INLINE Filters(const T* table, const T* w, const T* d, int rows) : table_(table), w_(w), d_(d) {
        if constexpr (!SPLINE) {
#pragma GCC unroll 2
            for (int q = 0; q < CHUNK; ++q) {
#pragma GCC unroll 3
                for (int part = 0; part < 3; ++part) {
                    value_[q][part] = slope_[q][part] = zero<T>();
                }
            }
            for (int m = 0; m < rows; ++m) {
                add(m, 0, CHUNK);
            }
        }
    }
    HYDRAPOT_INLINE void make(int q) {
        if constexpr (SPLINE) {
#pragma GCC unroll 8
            for (int m = 0; m < spline_rows; ++m) {
                add<true>(m, q, q + 1);
            }
        }
    }
    HYDRAPOT_INLINE Vec<T> value(int q, int part) const { return value_[q][part]; }
    HYDRAPOT_INLINE Vec<T> slope(int q, int part) const { return slope_[q][part]; }

  private:
    template <bool STARTS = false>
    HYDRAPOT_INLINE void add(int m, int first, int last) {
        constexpr int L = Simd<T>::lanes, C = CHUNK * L;
#pragma GCC unroll 2
        for (int q = first; q < last; ++q) {
#pragma GCC unroll 3
            for (int part = 0; part < 3; ++part) {
                const Vec<T> row = load<T>(table_ + (Index(m) * 3 + part) * C + q * L);
                const bool starts = STARTS && m == 0;
                value_[q][part] = starts ? w_[m] * row : value_[q][part] + w_[m] * row;
                if constexpr (SLOPES) {
                    slope_[q][part] = starts ? d_[m] * row : slope_[q][part] + d_[m] * row;
                }
            }
        }
    }
    const T *table_, *w_, *d_;
    Vec<T> value_[CHUNK][3], slope_[CHUNK][3];
};

// Scalars (rows of ldx, plain) and vectors (rows (atom, component), plain F) after the message.
template <class T, bool SPLINE>
void forward_edges_of(const Pass<T>& p, Scratch<T>& s, int layer, Index first, int count, int tile, T* x, Index ldx,
                      T* v) {
    constexpr int L = Simd<T>::lanes, C = CHUNK * L;
    const Shape<T>& shape = p.shape;
    const Nodes<T>& nodes = p.nodes[layer];
    const int F = shape.F, rows = shape.rows;
    for (int start = 0; start < count; start += tile) {
        const int stop = start + tile < count ? start + tile : count;
        prepare_edges<T, false>(p, s, first + start, stop - start);
        for (int chunk = 0; chunk < F / C; ++chunk) {
            const T* table = p.layer[layer].filters + Index(chunk) * shape.table_rows * 3 * C;
            const T* context = nodes.context + chunk * 3 * C;
            const T* vectors = nodes.vectors + chunk * 3 * C;
            int n = 0;
            for (int a = start; a < stop; ++a) {
                const Index i = first + a;
                const Edge<T>* edges = p.edges + p.offsets[i];
                const int32_t* senders = p.sender + p.offsets[i];
                Vec<T> sum[4][CHUNK];
#pragma GCC unroll 2
                for (int q = 0; q < CHUNK; ++q) {
                    sum[0][q] = load<T>(p.scalars + i * F + chunk * C + q * L);
#pragma GCC unroll 3
                    for (int d = 0; d < 3; ++d) {
                        sum[1 + d][q] = load<T>(vectors + i * nodes.stride + d * C + q * L);
                    }
                }
                for (int e = 0; e < p.degree[i]; ++e, ++n) {
                    const T* t = table + Index(s.cells[n]) * 3 * C;
                    const T* c = context + senders[e] * nodes.stride;
                    const T* u = vectors + senders[e] * nodes.stride;
                    const Edge<T> edge = edges[e];
                    Filters<T, SPLINE, false> filters(t, s.weights + Index(rows) * n, nullptr, rows);
#pragma GCC unroll 2
                    for (int q = 0; q < CHUNK; ++q) {
                        filters.make(q);
                        const Vec<T> w[3] = {filters.value(q, 0), filters.value(q, 1), filters.value(q, 2)};
                        sum[0][q] += w[0] * load<T>(c + q * L);
                        const Vec<T> b = w[1] * load<T>(c + C + q * L);
                        const Vec<T> g = w[2] * load<T>(c + 2 * C + q * L);
                        sum[1][q] += edge.x * b + g * load<T>(u + q * L);
                        sum[2][q] += edge.y * b + g * load<T>(u + C + q * L);
                        sum[3][q] += edge.z * b + g * load<T>(u + 2 * C + q * L);
                    }
                }
#pragma GCC unroll 2
                for (int q = 0; q < CHUNK; ++q) {
                    store<T>(x + a * ldx + chunk * C + q * L, sum[0][q]);
#pragma GCC unroll 3
                    for (int d = 0; d < 3; ++d) {
                        store<T>(v + (Index(a) * 3 + d) * F + chunk * C + q * L, sum[1 + d][q]);
                    }
                }
            }
        }
    }
}

// Gradients with respect to context (rows of 3F, chunked) and vectors (rows (atom, component), plain F; with the part
// that bypasses the message), and of the edges.
template <class T, bool SPLINE>
void backward_edges_of(const Pass<T>& p, Scratch<T>& s, int layer, Index first, int count, int tile, T* dc, T* dv) {
    constexpr int L = Simd<T>::lanes, C = CHUNK * L;
    const Shape<T>& shape = p.shape;
    const Nodes<T>& nodes = p.nodes[layer];
    const int F = shape.F, rows = shape.rows;
    for (int start = 0; start < count; start += tile) {
        const int stop = start + tile < count ? start + tile : count;
        prepare_edges<T, true>(p, s, first + start, stop - start);
        for (int chunk = 0; chunk < F / C; ++chunk) {
            const T* table = p.layer[layer].filters + Index(chunk) * shape.table_rows * 3 * C;
            const T* gradient = nodes.gradient + chunk * 4 * C;
            int n = 0;
            for (int a = start; a < stop; ++a) {
                const Index j = first + a;
                const Edge<T>* edges = p.edges + p.offsets[j];
                const int32_t* receivers = p.sender + p.offsets[j];
                const T* c = nodes.context + j * nodes.stride + chunk * 3 * C;
                const T* v = nodes.vectors + j * nodes.stride + chunk * 3 * C;
                Vec<T> d_context[3][CHUNK] = {}, weighted[3][CHUNK] = {};
                for (int e = 0; e < p.degree[j]; ++e, ++n) {
                    const T* t = table + Index(s.cells[n]) * 3 * C;
                    const T* g = gradient + receivers[e] * nodes.gradient_stride;
                    const T rx = -edges[e].x, ry = -edges[e].y, rz = -edges[e].z;
                    Vec<T> sum[4] = {};
                    Filters<T, SPLINE, true> filters(t, s.weights + Index(rows) * n, s.slopes + Index(rows) * n, rows);
#pragma GCC unroll 2
                    for (int q = 0; q < CHUNK; ++q) {
                        filters.make(q);
                        const Vec<T> w[3] = {filters.value(q, 0), filters.value(q, 1), filters.value(q, 2)};
                        const Vec<T> slope[3] = {filters.slope(q, 0), filters.slope(q, 1), filters.slope(q, 2)};
                        const Vec<T> t0 = load<T>(g + q * L);
                        const Vec<T> gx = load<T>(g + C + q * L);
                        const Vec<T> gy = load<T>(g + 2 * C + q * L);
                        const Vec<T> gz = load<T>(g + 3 * C + q * L);
                        const Vec<T> t1 = rx * gx + ry * gy + rz * gz;
                        const Vec<T> t2 =
                            load<T>(v + q * L) * gx + load<T>(v + C + q * L) * gy + load<T>(v + 2 * C + q * L) * gz;
                        d_context[0][q] += w[0] * t0;
                        d_context[1][q] += w[1] * t1;
                        d_context[2][q] += w[2] * t2;
                        weighted[0][q] += w[2] * gx;
                        weighted[1][q] += w[2] * gy;
                        weighted[2][q] += w[2] * gz;
                        const Vec<T> c1 = load<T>(c + C + q * L);
                        sum[0] += slope[0] * (load<T>(c + q * L) * t0) + slope[1] * (c1 * t1) +
                                  slope[2] * (load<T>(c + 2 * C + q * L) * t2);
                        const Vec<T> h = w[1] * c1;
                        sum[1] += h * gx;
                        sum[2] += h * gy;
                        sum[3] += h * gz;
                    }
                    T totals[4];
                    sum_lanes<T>(sum[0], sum[1], sum[2], sum[3], totals);
                    T* partial = s.partial + 4 * n;
#pragma GCC unroll 4
                    for (int q = 0; q < 4; ++q) {
                        partial[q] = chunk == 0 ? totals[q] : partial[q] + totals[q];
                    }
                }
                const T* own = gradient + j * nodes.gradient_stride;
#pragma GCC unroll 2
                for (int q = 0; q < CHUNK; ++q) {
                    const Vec<T> c2 = load<T>(c + 2 * C + q * L);
#pragma GCC unroll 3
                    for (int d = 0; d < 3; ++d) {
                        store<T>(dc + Index(a) * 3 * F + (chunk * 3 + d) * C + q * L, d_context[d][q]);
                        store<T>(dv + (Index(a) * 3 + d) * F + chunk * C + q * L,
                                 load<T>(own + (1 + d) * C + q * L) + c2 * weighted[d][q]);
                    }
                }
            }
        }
        int n = 0;
        for (int a = start; a < stop; ++a) {
            const Index j = first + a;
            const int structure = p.structure ? p.structure[j] : 0;
            for (int e = 0; e < p.degree[j]; ++e, ++n) {
                const Edge<T> edge = p.edges[p.offsets[j] + e];
                const double d[3] = {-double(edge.x), -double(edge.y), -double(edge.z)};
                add_radial_and_angular<T>(s, structure, p.sender[p.offsets[j] + e], j, s.partial + 4 * n, d,
                                          double(edge.r));
            }
        }
    }
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
