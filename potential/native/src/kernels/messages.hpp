// Sums over neighbors with first and second derivatives, on plain arrays (messages_plan.hpp), a few channels at a time.
//
// Sums, for receiver i with edges e = (i ← j), filters w_e(r):
//
//     s_i = Σ_e w⁰ c⁰_j,        V_i = Σ_e (w¹ c¹_j r̂ + w² c²_j v_j).
//
// Gradients of ψ = ⟨γ, s⟩ + ⟨Γ, V⟩ are gathered at the sender j, whose own row holds the reverses of the edges (k ← j) that
// it sends along; with the unit vector r̂ of such an edge (minus that of the slot) and t⁰ = γ_k, t¹ = r̂·Γ_k, t² = v_j·Γ_k,
//
//     ∂c⁰_j = Σ w⁰ t⁰,   ∂c¹_j = Σ w¹ t¹,   ∂c²_j = v_j·A,   ∂v_j = c²_j A,   A = Σ w² Γ_k,
//     ∂w^p = t^p c^p_j,  ∂r = r̂ Σ_f w'^p t^p c^p_j + (1 − r̂ r̂ᵀ)/r Σ_f w¹ c¹_j Γ_k.
//
// Second derivatives: a loss that depends on these gradients has, for tangents a of c, b of v and u of r, the gradient of
// Φ = d/dτ ψ(c + τa, v + τb, r + τu), which needs the rates D = u·r̂ of r and q = (u − D r̂)/r of r̂. The gradients of Φ
// with respect to γ and Γ are the rates of the sums,
//
//     ṡ_i = Σ_e (Dw'⁰ c⁰_j + w⁰ a⁰_j),
//     V̇_i = Σ_e ((Dw'¹ c¹_j + w¹ a¹_j) r̂ + w¹ c¹_j q + (Dw'² c²_j + w² a²_j) v_j + w² c²_j b_j),
//
// and, at the sender, with τ¹ = q·Γ_k, τ² = b_j·Γ_k and B = Σ Dw'² Γ_k,
//
//     ∂c⁰_j = Σ Dw'⁰ t⁰,   ∂c¹_j = Σ (Dw'¹ t¹ + w¹ τ¹),   ∂c²_j = v_j·B + b_j·A,   ∂v_j = c²_j B + a²_j A,
//     ∂w⁰ = t⁰ a⁰_j,   ∂w¹ = t¹ a¹_j + τ¹ c¹_j,   ∂w² = t² a²_j + τ² c²_j,   ∂w'^p = D t^p c^p_j.
//
// (Derivatives of Φ with respect to r are not needed: nothing that is trained moves atoms.) Each row is written by one
// thread; shares of the table's gradient are added up by their order: the same bits for the same number of threads.
#pragma once

#include "../messages_plan.hpp"
#include "radial.hpp"

namespace hydrapot {
namespace HYDRAPOT_ISA {

// Arrays of callers may begin anywhere.
template <class T>
HYDRAPOT_INLINE Vec<T> get(const T* p) {
    Vec<T> v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}

template <class T>
HYDRAPOT_INLINE void put(T* p, Vec<T> v) {
    __builtin_memcpy(p, &v, sizeof(v));
}

template <class T>
void describe_edges(const Shape<T>& shape, const double* vectors, Index count, T* records, int32_t* cells) {
    constexpr int L = Simd<T>::lanes;
    const Index width = record_head + 2 * shape.rows;
    for (Index start = 0; start < count; start += L) {
        const int n = count - start < L ? static_cast<int>(count - start) : L;
        Vec<T> x = zero<T>(), w[spline_rows], d[spline_rows];
        for (int l = 0; l < n; ++l) {
            const double* r = vectors + 3 * (start + l);
            T* record = records + (start + l) * width;
            const double length = __builtin_sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]), inverse = 1.0 / length;
            for (int a = 0; a < 3; ++a) {
                record[a] = static_cast<T>(r[a] * inverse);
            }
            record[3] = static_cast<T>(inverse);
            const bool edge = length < shape.cutoff;
            cells[start + l] = edge ? 0 : -1;
            if (!edge) {
                continue;
            }
            if (shape.spline) {
                const double t = length * shape.inverse_step;
                const int cell = static_cast<int>(t) < shape.cells ? static_cast<int>(t) : shape.cells - 1;
                cells[start + l] = cell;
                x[l] = static_cast<T>(t - cell);
            } else {
                bessel_weights<T>(shape, length, record + record_head, record + record_head + shape.rows);
            }
        }
        if (shape.spline) {
            spline_values<T>(x, w);
            spline_slopes<T>(x, static_cast<T>(shape.inverse_step), d);
            for (int l = 0; l < n; ++l) {
                T* record = records + (start + l) * width + record_head;
#pragma GCC unroll 8
                for (int m = 0; m < spline_rows; ++m) {
                    record[m] = w[m][l];
                    record[spline_rows + m] = d[m][l];
                }
            }
        }
    }
}

// Filters of Q vectors of channels on an edge, and their slopes if wanted; W vectors are a chunk of the table.
template <class T, bool SPLINE, int P, int Q, int W, bool SLOPES>
struct EdgeFilters {
    Vec<T> value[P][Q], slope[P][Q];

    // `table`: the first row that the edge uses, at the first of the channels.
    HYDRAPOT_INLINE EdgeFilters(const MessageArrays<T>& p, const T* record, const T* table) {
        constexpr int L = Simd<T>::lanes;
        const T* w = record + record_head;
        const int rows = SPLINE ? spline_rows : p.rows;
#pragma GCC unroll 3
        for (int part = 0; part < P; ++part) {
#pragma GCC unroll 2
            for (int q = 0; q < Q; ++q) {
                value[part][q] = slope[part][q] = zero<T>();
            }
        }
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 3
            for (int part = 0; part < P; ++part) {
#pragma GCC unroll 2
                for (int q = 0; q < Q; ++q) {
                    const Vec<T> row = get<T>(table + (m * P + part) * W * L + q * L);
                    value[part][q] += w[m] * row;
                    if constexpr (SLOPES) {
                        slope[part][q] += w[rows + m] * row;
                    }
                }
            }
        }
    }
};

template <class T>
HYDRAPOT_INLINE Index record_width(const MessageArrays<T>& p) {
    return record_head + 2 * Index(p.rows);
}

template <class T, bool SPLINE, int P, int Q>
void sum_rows(const MessageArrays<T>& p, Index first, Index last) {
    constexpr int L = Simd<T>::lanes, C = Q * L;
    const Index F = p.F, width = record_width(p);
    for (Index i = first; i < last; ++i) {
        const Index row = i * p.degree;
        for (Index f = 0; f < F; f += C) {
            const T* table = p.table + f * P * p.table_rows;
            Vec<T> sum[4][Q] = {};
            for (Index e = row; e < row + p.counts[i]; ++e) {
                if (p.cells[e] < 0) {
                    continue;
                }
                const T* record = p.records + e * width;
                const Index j = p.senders[e];
                const T* c = p.context + j * P * F + f;
                const EdgeFilters<T, SPLINE, P, Q, Q, false> w(p, record, table + Index(p.cells[e]) * P * C);
#pragma GCC unroll 2
                for (int q = 0; q < Q; ++q) {
                    sum[0][q] += w.value[0][q] * get<T>(c + q * L);
                    const Vec<T> along = w.value[1][q] * get<T>(c + F + q * L);
#pragma GCC unroll 3
                    for (int d = 0; d < 3; ++d) {
                        sum[1 + d][q] += record[d] * along;
                    }
                    if constexpr (P == 3) {
                        const T* v = p.vectors + j * 3 * F + f;
                        const Vec<T> factor = w.value[2][q] * get<T>(c + 2 * F + q * L);
#pragma GCC unroll 3
                        for (int d = 0; d < 3; ++d) {
                            sum[1 + d][q] += factor * get<T>(v + d * F + q * L);
                        }
                    }
                }
            }
#pragma GCC unroll 2
            for (int q = 0; q < Q; ++q) {
                put<T>(p.scalar_sum + i * F + f + q * L, sum[0][q]);
#pragma GCC unroll 3
                for (int d = 0; d < 3; ++d) {
                    put<T>(p.vector_sum + (i * 3 + d) * F + f + q * L, sum[1 + d][q]);
                }
            }
        }
    }
}

// Adds weight_m · g + slope_m · h to the rows of the table's gradient that an edge uses.
template <class T, bool SPLINE, int P, int Q, int W, bool SLOPES>
HYDRAPOT_INLINE void add_to_table(const MessageArrays<T>& p, const T* record, T* table, const Vec<T> (*g)[Q],
                                  const Vec<T> (*h)[Q]) {
    constexpr int L = Simd<T>::lanes;
    const T* w = record + record_head;
    const int rows = SPLINE ? spline_rows : p.rows;
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 3
        for (int part = 0; part < P; ++part) {
#pragma GCC unroll 2
            for (int q = 0; q < Q; ++q) {
                T* at = table + (m * P + part) * W * L + q * L;
                Vec<T> sum = get<T>(at) + w[m] * g[part][q];
                if constexpr (SLOPES) {
                    sum += w[rows + m] * h[part][q];
                }
                put<T>(at, sum);
            }
        }
    }
}

template <class T, bool SPLINE, int P, int Q, bool EDGES, bool TABLE>
void gradient_rows(const MessageArrays<T>& p, const MessageScratch<T>& s, Index first, Index last) {
    constexpr int L = Simd<T>::lanes, C = Q * L;
    const Index F = p.F, width = record_width(p);
    for (Index j = first; j < last; ++j) {
        const Index row = j * p.degree;
        for (Index f = 0; f < F; f += C) {
            const T* table = p.table + f * P * p.table_rows;
            T* d_table = s.d_table + (TABLE ? f * P * p.table_rows : 0);
            Vec<T> c[P][Q], v[3][Q] = {}, d_c[2][Q] = {}, A[3][Q] = {};
#pragma GCC unroll 2
            for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 3
                for (int part = 0; part < P; ++part) {
                    c[part][q] = get<T>(p.context + (j * P + part) * F + f + q * L);
                }
                if constexpr (P == 3) {
#pragma GCC unroll 3
                    for (int d = 0; d < 3; ++d) {
                        v[d][q] = get<T>(p.vectors + (j * 3 + d) * F + f + q * L);
                    }
                }
            }
            for (Index e = row; e < row + p.counts[j]; ++e) {
                if (p.cells[e] < 0) {
                    continue;
                }
                const T* record = p.records + e * width;
                const Index k = p.senders[e];
                const T r[3] = {-record[0], -record[1], -record[2]};
                const T* gamma = p.scalar_gradient + k * F + f;
                const T* Gamma = p.vector_gradient + k * 3 * F + f;
                const Index cell = Index(p.cells[e]) * P * C;
                const EdgeFilters<T, SPLINE, P, Q, Q, EDGES> w(p, record, table + cell);
                Vec<T> sum[4] = {}, g[P][Q];
#pragma GCC unroll 2
                for (int q = 0; q < Q; ++q) {
                    const Vec<T> G[3] = {get<T>(Gamma + q * L), get<T>(Gamma + F + q * L), get<T>(Gamma + 2 * F + q * L)};
                    Vec<T> t[P];
                    t[0] = get<T>(gamma + q * L);
                    t[1] = r[0] * G[0] + r[1] * G[1] + r[2] * G[2];
                    d_c[0][q] += w.value[0][q] * t[0];
                    d_c[1][q] += w.value[1][q] * t[1];
                    if constexpr (P == 3) {
                        t[2] = v[0][q] * G[0] + v[1][q] * G[1] + v[2][q] * G[2];
#pragma GCC unroll 3
                        for (int d = 0; d < 3; ++d) {
                            A[d][q] += w.value[2][q] * G[d];
                        }
                    }
                    if constexpr (EDGES) {
                        const Vec<T> along = w.value[1][q] * c[1][q];
#pragma GCC unroll 3
                        for (int d = 0; d < 3; ++d) {
                            sum[1 + d] += along * G[d];
                        }
                    }
#pragma GCC unroll 3
                    for (int part = 0; part < P; ++part) {
                        g[part][q] = t[part] * c[part][q];
                        if constexpr (EDGES) {
                            sum[0] += w.slope[part][q] * g[part][q];
                        }
                    }
                }
                if constexpr (EDGES) {
                    T totals[4];
                    sum_lanes<T>(sum[0], sum[1], sum[2], sum[3], totals);
                    T* partial = s.partial + 4 * (e - row);
#pragma GCC unroll 4
                    for (int q = 0; q < 4; ++q) {
                        partial[q] = f == 0 ? totals[q] : partial[q] + totals[q];
                    }
                }
                if constexpr (TABLE) {
                    add_to_table<T, SPLINE, P, Q, Q, false>(p, record, d_table + cell, g, g);
                }
            }
#pragma GCC unroll 2
            for (int q = 0; q < Q; ++q) {
                T* d_context = p.d_context + j * P * F + f + q * L;
                put<T>(d_context, d_c[0][q]);
                put<T>(d_context + F, d_c[1][q]);
                if constexpr (P == 3) {
                    put<T>(d_context + 2 * F, v[0][q] * A[0][q] + v[1][q] * A[1][q] + v[2][q] * A[2][q]);
#pragma GCC unroll 3
                    for (int d = 0; d < 3; ++d) {
                        put<T>(p.d_vectors + (j * 3 + d) * F + f + q * L, c[2][q] * A[d][q]);
                    }
                }
            }
        }
        if constexpr (EDGES) {
            for (Index e = row; e < row + p.degree; ++e) {
                double* out = p.d_edges + 3 * p.reverse[e];
                if (e >= row + p.counts[j] || p.cells[e] < 0) {
                    out[0] = out[1] = out[2] = 0.0;
                    continue;
                }
                const T* record = p.records + e * width;
                const T* partial = s.partial + 4 * (e - row);
                const double r[3] = {-double(record[0]), -double(record[1]), -double(record[2])};
                const double inverse = double(record[3]);
                const double along = r[0] * partial[1] + r[1] * partial[2] + r[2] * partial[3];
                for (int d = 0; d < 3; ++d) {
                    out[d] = r[d] * partial[0] + (partial[1 + d] - along * r[d]) * inverse;
                }
            }
        }
    }
}

// Rates of change of the length and of the unit vector of every edge of a row, and of its reverse: (D, q), (D, q).
template <class T>
void rates_of_row(const MessageArrays<T>& p, Index row, int count, T* geometry) {
    const Index width = record_width(p);
    for (int n = 0; n < count; ++n) {
        const Index e = row + n;
        const T* record = p.records + e * width;
        const double* tangents[2] = {p.edge_tangent + 3 * e, p.edge_tangent + 3 * p.reverse[e]};
        for (int way = 0; way < 2; ++way) {
            const double* u = tangents[way];
            const double sign = way == 0 ? 1.0 : -1.0;
            const double r[3] = {sign * record[0], sign * record[1], sign * record[2]};
            const double D = u[0] * r[0] + u[1] * r[1] + u[2] * r[2];
            T* out = geometry + 8 * n + 4 * way;
            out[0] = static_cast<T>(D);
            for (int d = 0; d < 3; ++d) {
                out[1 + d] = static_cast<T>((u[d] - D * r[d]) * record[3]);
            }
        }
    }
}

template <class T, int P>
void pack_rows(const MessageArrays<T>& p, Index first, Index last) {
    constexpr int L = Simd<T>::lanes, n = packed_parts(P);
    const Index F = p.F;
    for (Index i = first; i < last; ++i) {
        for (Index f = 0; f < F; f += L) {
            T* out = p.packed + (i * F + f) * n;
#pragma GCC unroll 3
            for (int part = 0; part < P; ++part) {
                const Index at = (i * P + part) * F + f;
                put<T>(out + part * L, get<T>(p.context + at));
                put<T>(out + (P + part) * L, p.context_tangent ? get<T>(p.context_tangent + at) : zero<T>());
            }
            put<T>(out + 2 * P * L, get<T>(p.scalar_gradient + i * F + f));
#pragma GCC unroll 3
            for (int d = 0; d < 3; ++d) {
                const Index at = (i * 3 + d) * F + f;
                put<T>(out + (2 * P + 1 + d) * L, get<T>(p.vector_gradient + at));
                if constexpr (P == 3) {
                    put<T>(out + (10 + d) * L, get<T>(p.vectors + at));
                    put<T>(out + (13 + d) * L, p.vector_tangent ? get<T>(p.vector_tangent + at) : zero<T>());
                }
            }
        }
    }
}

// What pack_rows has put side by side.
template <class T, int P>
struct Packed {
    static constexpr int L = Simd<T>::lanes;
    const T* at;

    HYDRAPOT_INLINE Vec<T> c(int part) const { return get<T>(at + part * L); }
    HYDRAPOT_INLINE Vec<T> a(int part) const { return get<T>(at + (P + part) * L); }
    HYDRAPOT_INLINE Vec<T> gamma() const { return get<T>(at + 2 * P * L); }
    HYDRAPOT_INLINE Vec<T> Gamma(int d) const { return get<T>(at + (2 * P + 1 + d) * L); }
    HYDRAPOT_INLINE Vec<T> v(int d) const { return get<T>(at + (10 + d) * L); }
    HYDRAPOT_INLINE Vec<T> b(int d) const { return get<T>(at + (13 + d) * L); }
};

// W: vectors in a chunk of the table.
template <class T, bool SPLINE, int P, int W>
void second_rows(const MessageArrays<T>& p, const MessageScratch<T>& s, Index first, Index last) {
    constexpr int L = Simd<T>::lanes;
    const Index F = p.F, width = record_width(p), stride = F * packed_parts(P);
    for (Index i = first; i < last; ++i) {
        const Index row = i * p.degree;
        rates_of_row(p, row, p.counts[i], s.geometry);
        for (Index f = 0; f < F; f += L) {
            const Index within = f % (W * L), chunk = (f - within) * P * p.table_rows + within;
            const T* table = p.table + chunk;
            T* d_table = s.d_table + chunk;
            const T* packed = p.packed + f * packed_parts(P);
            const Packed<T, P> own{packed + i * stride};
            Vec<T> sum[4] = {}, c[P], a[P], v[3] = {}, b[3] = {}, d_c[2] = {}, A[3] = {}, B[3] = {};
#pragma GCC unroll 3
            for (int part = 0; part < P; ++part) {
                c[part] = own.c(part);
                a[part] = own.a(part);
            }
            if constexpr (P == 3) {
#pragma GCC unroll 3
                for (int d = 0; d < 3; ++d) {
                    v[d] = own.v(d);
                    b[d] = own.b(d);
                }
            }
            for (int n = 0; n < p.counts[i]; ++n) {
                const Index e = row + n;
                if (p.cells[e] < 0) {
                    continue;
                }
                const T* record = p.records + e * width;
                const T* rate = s.geometry + 8 * n;  // of the edge, then of its reverse
                const Index cell = Index(p.cells[e]) * P * W * L;
                const Packed<T, P> j{packed + p.senders[e] * stride};
                const EdgeFilters<T, SPLINE, P, 1, W, true> w(p, record, table + cell);
                // As receiver of what j sends.
                {
                    const Vec<T> c1 = j.c(1), turn = w.value[1][0] * c1;
                    const Vec<T> along = rate[0] * w.slope[1][0] * c1 + w.value[1][0] * j.a(1);
                    sum[0] += rate[0] * w.slope[0][0] * j.c(0) + w.value[0][0] * j.a(0);
#pragma GCC unroll 3
                    for (int d = 0; d < 3; ++d) {
                        sum[1 + d] += along * record[d] + turn * rate[1 + d];
                    }
                    if constexpr (P == 3) {
                        const Vec<T> c2 = j.c(2), factor = w.value[2][0] * c2;
                        const Vec<T> carried = rate[0] * w.slope[2][0] * c2 + w.value[2][0] * j.a(2);
#pragma GCC unroll 3
                        for (int d = 0; d < 3; ++d) {
                            sum[1 + d] += carried * j.v(d) + factor * j.b(d);
                        }
                    }
                }
                // As sender of what j receives.
                const T D = rate[4];
                const Vec<T> G[3] = {j.Gamma(0), j.Gamma(1), j.Gamma(2)};
                const Vec<T> t0 = j.gamma();
                const Vec<T> t1 = -(record[0] * G[0] + record[1] * G[1] + record[2] * G[2]);
                const Vec<T> turned = rate[5] * G[0] + rate[6] * G[1] + rate[7] * G[2];
                d_c[0] += D * w.slope[0][0] * t0;
                d_c[1] += D * w.slope[1][0] * t1 + w.value[1][0] * turned;
                Vec<T> g[P][1], h[P][1];
                g[0][0] = t0 * a[0];
                h[0][0] = D * t0 * c[0];
                g[1][0] = t1 * a[1] + turned * c[1];
                h[1][0] = D * t1 * c[1];
                if constexpr (P == 3) {
                    const Vec<T> t2 = v[0] * G[0] + v[1] * G[1] + v[2] * G[2];
                    const Vec<T> change = b[0] * G[0] + b[1] * G[1] + b[2] * G[2];
                    const Vec<T> slope = D * w.slope[2][0];
#pragma GCC unroll 3
                    for (int d = 0; d < 3; ++d) {
                        A[d] += w.value[2][0] * G[d];
                        B[d] += slope * G[d];
                    }
                    g[2][0] = t2 * a[2] + change * c[2];
                    h[2][0] = D * t2 * c[2];
                }
                add_to_table<T, SPLINE, P, 1, W, true>(p, record, d_table + cell, g, h);
            }
            put<T>(p.scalar_sum + i * F + f, sum[0]);
            T* d_context = p.d_context + i * P * F + f;
            put<T>(d_context, d_c[0]);
            put<T>(d_context + F, d_c[1]);
            Vec<T> last_part = zero<T>();
#pragma GCC unroll 3
            for (int d = 0; d < 3; ++d) {
                put<T>(p.vector_sum + (i * 3 + d) * F + f, sum[1 + d]);
                if constexpr (P == 3) {
                    last_part += v[d] * B[d] + b[d] * A[d];
                    put<T>(p.d_vectors + (i * 3 + d) * F + f, c[2] * B[d] + a[2] * A[d]);
                }
            }
            if constexpr (P == 3) {
                put<T>(d_context + 2 * F, last_part);
            }
        }
    }
}

// ---- choice of the variant -------------------------------------------------------------------------------------------

template <class T, bool SPLINE, int P, int Q>
void gradient_of(const MessageArrays<T>& p, const MessageScratch<T>& s, Index first, Index last) {
    if (p.d_edges) {
        gradient_rows<T, SPLINE, P, Q, true, false>(p, s, first, last);
    } else {
        gradient_rows<T, SPLINE, P, Q, false, true>(p, s, first, last);
    }
}

template <class T, bool SPLINE, int P>
void sum_of(const MessageArrays<T>& p, const MessageScratch<T>&, Index first, Index last) {
    const bool pairs = p.C > Simd<T>::lanes;
    pairs ? sum_rows<T, SPLINE, P, 2>(p, first, last) : sum_rows<T, SPLINE, P, 1>(p, first, last);
}

template <class T, bool SPLINE, int P>
void gradient_of_parts(const MessageArrays<T>& p, const MessageScratch<T>& s, Index first, Index last) {
    const bool pairs = p.C > Simd<T>::lanes;
    pairs ? gradient_of<T, SPLINE, P, 2>(p, s, first, last) : gradient_of<T, SPLINE, P, 1>(p, s, first, last);
}

template <class T, bool SPLINE, int P>
void second_of(const MessageArrays<T>& p, const MessageScratch<T>& s, Index first, Index last) {
    const bool pairs = p.C > Simd<T>::lanes;
    pairs ? second_rows<T, SPLINE, P, 2>(p, s, first, last) : second_rows<T, SPLINE, P, 1>(p, s, first, last);
}

template <class T>
void pack_atoms(const MessageArrays<T>& p, Index first, Index last) {
    p.parts == 3 ? pack_rows<T, 3>(p, first, last) : pack_rows<T, 2>(p, first, last);
}

#define HYDRAPOT_OF_PARTS(name, kernel)                                                                              \
    template <class T>                                                                                               \
    void name(const MessageArrays<T>& p, const MessageScratch<T>& s, Index first, Index last) {                      \
        const bool spline = p.table_rows != p.rows;                                                                  \
        if (p.parts == 3) {                                                                                          \
            spline ? kernel<T, true, 3>(p, s, first, last) : kernel<T, false, 3>(p, s, first, last);                 \
        } else {                                                                                                     \
            spline ? kernel<T, true, 2>(p, s, first, last) : kernel<T, false, 2>(p, s, first, last);                 \
        }                                                                                                            \
    }
HYDRAPOT_OF_PARTS(message_sum, sum_of)
HYDRAPOT_OF_PARTS(message_gradient, gradient_of_parts)
HYDRAPOT_OF_PARTS(message_second, second_of)
#undef HYDRAPOT_OF_PARTS

template <class T>
const MessageKernels<T>& message_table() {
    static const MessageKernels<T> table = {Simd<T>::lanes,  pack_atoms<T>,       describe_edges<T>,
                                            message_sum<T>, message_gradient<T>, message_second<T>};
    return table;
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
