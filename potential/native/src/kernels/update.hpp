// The update of a layer (eq. 9 and 10 of PaiNN) for a block of atoms, φ of the next layer, and their derivatives.
#pragma once

#include "activation.hpp"
#include "gemm.hpp"

namespace hydrapot {
namespace HYDRAPOT_ISA {

// Where the quantities of one update lie. Rows are atoms for scalars, (atom, component) for vectors.
template <class T>
struct Update {
    T* s;  // scalars after the message; replaced by those after the update
    Index lds;
    T* v;  // vectors after the message
    Index ldv;
    T *U, *V;  // mixed vectors
    Index ldm;
    T* pre;  // argument of the SiLU
    Index ldpre;
    T *g0, *g1, *g2;  // gates; g0 is not there in the derivative, g2 not in the last layer
    Index ldg;
};

// √(|Vv|² + ε²) into n.
template <class T>
void smooth_norms(const Update<T>& u, int F, int count, T* n, Index ldn) {
    constexpr T softening = static_cast<T>(norm_softening * norm_softening);
    for (int a = 0; a < count; ++a) {
        const T* v = u.V + Index(a) * 3 * u.ldm;
        for (int f = 0; f < F; f += Simd<T>::lanes) {
            const Vec<T> x = load<T>(v + f), y = load<T>(v + u.ldm + f), z = load<T>(v + 2 * u.ldm + f);
            store<T>(n + a * ldn + f, square_root(x * x + y * y + z * z + softening));
        }
    }
}

// Scalars in place; vectors, if there is a next layer, into its nodes.
template <class T, bool LAST>
void apply_gates(const Pass<T>& p, const Update<T>& u, int layer, Index first, int count) {
    constexpr int L = Simd<T>::lanes, C = CHUNK * L;
    const int F = p.shape.F;
    for (int a = 0; a < count; ++a) {
        const Index m = Index(a) * 3 * u.ldm, r = Index(a) * 3 * u.ldv;
        for (int f = 0; f < F; f += L) {
            Vec<T> mixed[3], dot = zero<T>();
#pragma GCC unroll 3
            for (int d = 0; d < 3; ++d) {
                mixed[d] = load<T>(u.U + m + d * u.ldm + f);
                dot += mixed[d] * load<T>(u.V + m + d * u.ldm + f);
            }
            T* s = u.s + a * u.lds + f;
            const Vec<T> scalar = load<T>(s) + load<T>(u.g0 + a * u.ldg + f) + load<T>(u.g1 + a * u.ldg + f) * dot;
            store<T>(s, scalar);
            if constexpr (!LAST) {
                const Index i = first + a;
                store<T>(p.scalars + i * F + f, scalar);
                const Nodes<T>& next = p.nodes[layer + 1];
                T* out = next.vectors + i * next.stride + (f / C) * 3 * C + f % C;
                const Vec<T> g2 = load<T>(u.g2 + a * u.ldg + f);
#pragma GCC unroll 3
                for (int d = 0; d < 3; ++d) {
                    store<T>(out + d * C, load<T>(u.v + r + d * u.ldv + f) + g2 * mixed[d]);
                }
            }
        }
    }
}

// φ of layer k into its nodes.
template <class T>
void context(const Pass<T>& p, Scratch<T>& s, int layer, const T* scalars, Index first, int count, T* pre) {
    const int F = p.shape.F;
    const Nodes<T>& nodes = p.nodes[layer];
    gemm<T>(scalars, F, count, p.layer[layer].phi_hidden, false, pre, F);
    silu_rows<T>(pre, F, count, F, s.hidden, F, nullptr, 0);
    gemm<T>(s.hidden, F, count, p.layer[layer].phi_context, false, nodes.context + first * nodes.stride, nodes.stride);
}

// Derivative of apply_gates and of what leads there, down to the mixed vectors.
//
// In: ds, dv (rows (atom, component) of F; null in the last layer: zero). Out: u.pre holds its own gradient; U and V
// theirs; s.wide what `hidden` received: rows of 2F [ds | norms], in the first layer F: norms.
template <class T, bool FIRST, bool LAST>
void backward_gates(const Pass<T>& p, Scratch<T>& s, int layer, int count, const Update<T>& u, const T* ds, Index ldds,
                    const T* dv) {
    constexpr int L = Simd<T>::lanes;
    constexpr int parts = LAST ? 2 : 3;
    constexpr T softening = static_cast<T>(norm_softening * norm_softening);
    const int F = p.shape.F;
    const Layer<T>& weights = p.layer[layer];
    T* dg = s.wide;
    for (int a = 0; a < count; ++a) {
        const Index m = Index(a) * 3 * u.ldm;
        for (int f = 0; f < F; f += L) {
            Vec<T> dot = zero<T>(), late = zero<T>();
#pragma GCC unroll 3
            for (int d = 0; d < 3; ++d) {
                const Vec<T> mixed = load<T>(u.U + m + d * u.ldm + f);
                dot += mixed * load<T>(u.V + m + d * u.ldm + f);
                if constexpr (!LAST) {
                    late += mixed * load<T>(dv + (Index(a) * 3 + d) * F + f);
                }
            }
            const Vec<T> gradient = load<T>(ds + a * ldds + f);
            T* out = dg + Index(a) * parts * F + f;
            store<T>(out, gradient);
            store<T>(out + F, gradient * dot);
            if constexpr (!LAST) {
                store<T>(out + 2 * F, late);
            }
        }
    }
    gemm<T>(dg, parts * F, count, weights.gates_t, false, s.hidden, F);
    silu_slope_rows<T>(u.pre, u.ldpre, count, F, s.hidden, F, u.pre, u.ldpre);
    constexpr int wide = FIRST ? 1 : 2;
    gemm<T>(u.pre, u.ldpre, count, weights.hidden_t, false, s.wide, wide * F);
    const T* dn = s.wide + (FIRST ? 0 : F);
    for (int a = 0; a < count; ++a) {
        const Index m = Index(a) * 3 * u.ldm;
        for (int f = 0; f < F; f += L) {
            Vec<T> V[3], square = zero<T>() + softening;
#pragma GCC unroll 3
            for (int d = 0; d < 3; ++d) {
                V[d] = load<T>(u.V + m + d * u.ldm + f);
                square += V[d] * V[d];
            }
            const Vec<T> norm = load<T>(dn + Index(a) * wide * F + f) / square_root(square);
            const Vec<T> product = load<T>(ds + a * ldds + f) * load<T>(u.g1 + a * u.ldg + f);
            Vec<T> g2 = zero<T>();
            if constexpr (!LAST) {
                g2 = load<T>(u.g2 + a * u.ldg + f);
            }
#pragma GCC unroll 3
            for (int d = 0; d < 3; ++d) {
                T* U = u.U + m + d * u.ldm + f;
                const Vec<T> mixed = load<T>(U);
                Vec<T> dU = product * V[d];
                if constexpr (!LAST) {
                    dU += g2 * load<T>(dv + (Index(a) * 3 + d) * F + f);
                }
                store<T>(U, dU);
                store<T>(u.V + m + d * u.ldm + f, product * mixed + norm * V[d]);
            }
        }
    }
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
