// The passes over blocks of atoms: everything between two gathers from neighbors, while it is in the caches.
#pragma once

#include "edges.hpp"
#include "first.hpp"
#include "update.hpp"

namespace hydrapot {
namespace HYDRAPOT_ISA {

constexpr int TILE = 12;  // atoms whose edges are prepared together

template <class T>
void forward_edges(const Pass<T>& p, Scratch<T>& s, int layer, Index first, int count, T* x, Index ldx, T* v) {
    if (p.shape.spline) {
        forward_edges_of<T, true>(p, s, layer, first, count, TILE, x, ldx, v);
    } else {
        forward_edges_of<T, false>(p, s, layer, first, count, TILE, x, ldx, v);
    }
}

template <class T>
void backward_edges(const Pass<T>& p, Scratch<T>& s, int layer, Index first, int count, T* dc, T* dv) {
    if (p.shape.spline) {
        backward_edges_of<T, true>(p, s, layer, first, count, TILE, dc, dv);
    } else {
        backward_edges_of<T, false>(p, s, layer, first, count, TILE, dc, dv);
    }
}

template <class T>
void build_rows(const Pass<T>& p, Scratch<T>& s, Index first, int count) {
    for (Index i = first; i < first + count; ++i) {
        build_row(p, s, i);
    }
}

// Message of a layer into the places of its update, up to the argument of the SiLU.
template <class T>
Update<T> message_first(const Pass<T>& p, Scratch<T>& s, Index first, int count, T* mixed) {
    const int F = p.shape.F;
    T* x = s.x;
    T* y = mixed ? mixed : s.y;
    first_forward(p, s, first, count, TILE, x, y);
    Update<T> u{x, 2 * F, y, 3 * F, y + F, y + 2 * F, 3 * F, x + F, 2 * F, nullptr, nullptr, nullptr, 0};
    smooth_norms(u, F, count, s.hidden, F);
    gemm<T>(s.hidden, F, count, p.layer[0].hidden, true, u.pre, 2 * F);
    return u;
}

template <class T>
Update<T> message_later(const Pass<T>& p, Scratch<T>& s, int layer, Index first, int count, const Saved<T>& saved) {
    const int F = p.shape.F;
    T* x = s.x;  // [s | norms]
    T* v = saved.vectors ? saved.vectors + first * 3 * F : s.z;
    T* m = saved.mixed ? saved.mixed + first * 6 * F : s.y;
    T* pre = saved.pre ? saved.pre + first * F : s.pre;
    forward_edges(p, s, layer, first, count, x, 2 * F, v);
    gemm<T>(v, F, 3 * count, p.layer[layer].mix, false, m, 2 * F);
    Update<T> u{x, 2 * F, v, F, m, m + F, 2 * F, pre, F, nullptr, nullptr, nullptr, 0};
    smooth_norms(u, F, count, x + F, 2 * F);
    gemm<T>(x, 2 * F, count, p.layer[layer].hidden, false, pre, F);
    return u;
}

// Gates and new scalars and vectors.
template <class T, bool LAST>
void finish_update(const Pass<T>& p, Scratch<T>& s, int layer, Index first, int count, Update<T>& u, T* pre, T* gates) {
    const int F = p.shape.F;
    const Index ldg = (LAST ? 2 : 3) * F;
    T* g = gates ? gates + first * ldg : s.gates;
    silu_rows<T>(u.pre, u.ldpre, count, F, s.hidden, F, pre, F);
    gemm<T>(s.hidden, F, count, p.layer[layer].gates, false, g, ldg);
    u.g0 = g;
    u.g1 = g + F;
    u.g2 = g + 2 * F;
    u.ldg = ldg;
    apply_gates<T, LAST>(p, u, layer, first, count);
    if constexpr (!LAST) {
        const Nodes<T>& next = p.nodes[layer + 1];
        context(p, s, layer + 1, p.scalars + first * F, first, count, next.phi ? next.phi + first * F : s.pre);
    }
}

template <class T>
void first_pass(const Pass<T>& p, Scratch<T>& s, Index first, int count) {
    const int F = p.shape.F;
    const Saved<T>& saved = p.saved[0];
    build_rows(p, s, first, count);
    Update<T> u = message_first(p, s, first, count, saved.mixed ? saved.mixed + first * 9 * F : nullptr);
    finish_update<T, false>(p, s, 0, first, count, u, saved.pre ? saved.pre + first * F : nullptr, saved.gates);
}

template <class T>
void middle_pass(const Pass<T>& p, Scratch<T>& s, int layer, Index first, int count) {
    const Saved<T>& saved = p.saved[layer];
    Update<T> u = message_later(p, s, layer, first, count, saved);
    finish_update<T, false>(p, s, layer, first, count, u, static_cast<T*>(nullptr), saved.gates);
}

// Gradients after the message, chunked, from scalars and vectors.
template <class T>
void store_gradient(const Pass<T>& p, int layer, Index first, int count, const T* ds, Index ldds, const T* ds2,
                    Index ldds2, const T* dv) {
    constexpr int L = Simd<T>::lanes, C = CHUNK * L;
    const int F = p.shape.F;
    const Nodes<T>& nodes = p.nodes[layer];
    for (int a = 0; a < count; ++a) {
        T* row = nodes.gradient + (first + a) * nodes.gradient_stride;
        for (int f = 0; f < F; f += L) {
            T* out = row + (f / C) * 4 * C + f % C;
            store<T>(out, load<T>(ds + a * ldds + f) + load<T>(ds2 + a * ldds2 + f));
#pragma GCC unroll 3
            for (int d = 0; d < 3; ++d) {
                store<T>(out + (1 + d) * C, load<T>(dv + (Index(a) * 3 + d) * F + f));
            }
        }
    }
}

// Derivative of the first layer from the gradients of its update: ds and, unless it is also the last, dv.
template <class T, bool LAST>
void backward_first(const Pass<T>& p, Scratch<T>& s, Index first, int count, Update<T>& u, const T* ds, Index ldds,
                    const T* dv) {
    constexpr int L = Simd<T>::lanes;
    const int F = p.shape.F;
    backward_gates<T, true, LAST>(p, s, 0, count, u, ds, ldds, dv);
    for (int a = 0; a < count; ++a) {
        for (int f = 0; f < F; f += L) {
            store<T>(u.s + a * u.lds + f, load<T>(ds + a * ldds + f));
            for (int d = 0; d < 3; ++d) {
                store<T>(u.v + (Index(a) * 3 + d) * u.ldv + f,
                         LAST ? zero<T>() : load<T>(dv + (Index(a) * 3 + d) * F + f));
            }
        }
    }
    first_backward(p, s, first, count, TILE, u.s, u.v);
}

// Outputs of the heads, energies, and the gradient with respect to the scalars into s.narrow (rows of F).
template <class T>
void heads(const Pass<T>& p, Scratch<T>& s, Index first, int count, const T* scalars, Index lds) {
    constexpr int L = Simd<T>::lanes;
    const int F = p.shape.F;
    for (int a = 0; a < count; ++a) {
        for (int f = 0; f < F; f += L) {
            store<T>(s.narrow + Index(a) * F + f, zero<T>());
        }
    }
    for (int h = 0; h < p.n_active; ++h) {
        const int index = p.active[h];
        const Head<T>& head = p.head[index];
        const int H = head.hidden.n;
        gemm<T>(scalars, lds, count, head.hidden, false, s.wide, H);
        for (int a = 0; a < count; ++a) {
            const Index i = first + a;
            const int structure = p.structure ? p.structure[i] : 0;
            const double weight = p.raw ? 1.0 : p.head_weights[structure * p.head_stride + index] * head.scale;
            Vec<T> sum = zero<T>();
            for (int f = 0; f < H; f += L) {
                T* row = s.wide + Index(a) * H + f;
                const Vec<T> x = load<T>(row), out = load<T>(head.output + f);
                sum += silu<T>(x) * out;
                store<T>(row, static_cast<T>(weight) * (silu_slope<T>(x) * out));
            }
            const double value = sum_lanes<T>(sum);
            if (p.raw) {
                p.raw[i * p.n_heads + index] = value;
            } else {
                p.energies[i] += weight * (value - p.kinds[p.kind[i]]->isolated[index]);
            }
        }
        if (p.gradients) {
            gemm<T>(s.wide, H, count, head.hidden_t, true, s.narrow, F);
        }
    }
    if (p.features) {
        for (int a = 0; a < count; ++a) {
            for (int f = 0; f < p.channels; ++f) {
                p.features[(first + a) * p.channels + f] = scalars[a * lds + f];
            }
        }
    }
}

template <class T>
void last_pass(const Pass<T>& p, Scratch<T>& s, Index first, int count) {
    const int F = p.shape.F, layer = p.shape.layers - 1;
    const Saved<T> nothing{};
    Update<T> u;
    if (layer == 0) {
        build_rows(p, s, first, count);
        u = message_first<T>(p, s, first, count, nullptr);
    } else {
        u = message_later(p, s, layer, first, count, nothing);
    }
    finish_update<T, true>(p, s, layer, first, count, u, static_cast<T*>(nullptr), static_cast<T*>(nullptr));
    heads(p, s, first, count, u.s, u.lds);
    if (!p.gradients) {
        return;
    }
    if (layer == 0) {
        backward_first<T, true>(p, s, first, count, u, s.narrow, F, nullptr);
        return;
    }
    backward_gates<T, false, true>(p, s, layer, count, u, s.narrow, F, nullptr);
    gemm<T>(u.U, 2 * F, 3 * count, p.layer[layer].mix_t, false, s.z, F);
    store_gradient(p, layer, first, count, s.narrow, F, s.wide, 2 * F, s.z);
}

// Update of `layer` again, as far as its derivative needs it and it was not kept.
template <class T>
Update<T> recall(const Pass<T>& p, Scratch<T>& s, int layer, Index first, int count) {
    const int F = p.shape.F;
    const Saved<T>& saved = p.saved[layer];
    Update<T> u;
    if (layer == 0) {
        if (saved.mixed) {
            T* y = saved.mixed + first * 9 * F;
            // The place of [ds | pre] is filled below.
            u = Update<T>{s.x, 2 * F, y, 3 * F, y + F, y + 2 * F, 3 * F, s.x + F, 2 * F, nullptr, nullptr, nullptr, 0};
        } else {
            first_forward(p, s, first, count, TILE, s.x, s.y);
            u = Update<T>{s.x,     2 * F, s.y,     3 * F,   s.y + F, s.y + 2 * F, 3 * F,
                          s.x + F, 2 * F, nullptr, nullptr, nullptr, 0};
        }
        for (int a = 0; a < count; ++a) {
            for (int f = 0; f < F; f += Simd<T>::lanes) {
                store<T>(u.pre + a * u.ldpre + f, load<T>(saved.pre + (first + a) * F + f));
            }
        }
    } else {
        T* m = saved.mixed ? saved.mixed + first * 6 * F : s.y;
        if (!saved.mixed) {
            gemm<T>(saved.vectors + first * 3 * F, F, 3 * count, p.layer[layer].mix, false, m, 2 * F);
        }
        u = Update<T>{nullptr, 0, nullptr, 0, m, m + F, 2 * F, saved.pre + first * F, F, nullptr, nullptr, nullptr, 0};
    }
    if (saved.gates) {
        u.g1 = saved.gates + first * 3 * F + F;
        u.g2 = u.g1 + F;
        u.ldg = 3 * F;
    } else {
        silu_rows<T>(u.pre, u.ldpre, count, F, s.hidden, F, nullptr, 0);
        gemm<T>(s.hidden, F, count, p.layer[layer].late_gates, false, s.gates, 2 * F);
        u.g1 = s.gates;
        u.g2 = s.gates + F;
        u.ldg = 2 * F;
    }
    return u;
}

template <class T>
void backward_pass(const Pass<T>& p, Scratch<T>& s, int layer, Index first, int count) {
    constexpr int L = Simd<T>::lanes, C = CHUNK * L;
    const int F = p.shape.F;
    const Nodes<T>& nodes = p.nodes[layer];
    T* dv = s.z;
    backward_edges(p, s, layer, first, count, s.wide, dv);
    gemm<T>(s.wide, 3 * F, count, p.layer[layer].phi_context_t, false, s.hidden, F);
    silu_slope_rows<T>(nodes.phi + first * F, F, count, F, s.hidden, F, s.hidden, F);
    // The part that bypasses the message, then what comes through φ.
    for (int a = 0; a < count; ++a) {
        const T* own = nodes.gradient + (first + a) * nodes.gradient_stride;
        for (int f = 0; f < F; f += L) {
            store<T>(s.narrow + Index(a) * F + f, load<T>(own + (f / C) * 4 * C + f % C));
        }
    }
    gemm<T>(s.hidden, F, count, p.layer[layer].phi_hidden_t, true, s.narrow, F);
    Update<T> u = recall(p, s, layer - 1, first, count);
    if (layer == 1) {
        backward_first<T, false>(p, s, first, count, u, s.narrow, F, dv);
        return;
    }
    backward_gates<T, false, false>(p, s, layer - 1, count, u, s.narrow, F, dv);
    gemm<T>(u.U, 2 * F, 3 * count, p.layer[layer - 1].mix_t, true, dv, F);
    store_gradient(p, layer - 1, first, count, s.narrow, F, s.wide, 2 * F, dv);
}

template <class T>
void receive_pass(const Pass<T>& p, Scratch<T>& s, int layer, const T* features, Index first, int count) {
    constexpr int C = CHUNK * Simd<T>::lanes;
    const int F = p.shape.F, channels = p.channels;
    const Nodes<T>& nodes = p.nodes[layer];
    for (int a = 0; a < count; ++a) {
        const T* in = features + Index(a) * 4 * channels;
        T* out = nodes.vectors + (first + a) * nodes.stride;
        // Channels that only fill the last chunk are zero.
        for (int f = 0; f < F; f += C) {
            const int n = channels - f < C ? channels - f : C;
            const auto copy = [&](const T* from, T* to) {
                for (int c = 0; c < n; ++c) {
                    to[c] = from[f + c];
                }
                for (int c = n < 0 ? 0 : n; c < C; ++c) {
                    to[c] = T(0);
                }
            };
            copy(in, s.x + Index(a) * F + f);
            for (int d = 0; d < 3; ++d) {
                copy(in + (1 + d) * channels, out + 3 * f + d * C);
            }
        }
    }
    context(p, s, layer, s.x, first, count, s.pre);
}

template <class T>
const Kernels<T>& kernel_table() {
    static const Kernels<T> table = {Simd<T>::lanes, PANEL * Simd<T>::lanes, CHUNK * Simd<T>::lanes, TILE,
                                     first_pass<T>,  middle_pass<T>,         last_pass<T>,           backward_pass<T>,
                                     receive_pass<T>};
    return table;
}

}  // namespace HYDRAPOT_ISA
}  // namespace hydrapot
