// Sums over neighbors (eq. 7 and 8 of PaiNN) with their first and second derivatives, by themselves: what training needs.
//
// Unlike the passes of the engine, which fuse everything of an inference, these take and return plain arrays, so that
// automatic differentiation can do the rest of the network. kernels/messages.hpp has the equations.
#pragma once

#include "plan.hpp"

namespace hydrapot {

// Numbers of a record before the weights and slopes of its edge: unit vector and reciprocal length.
constexpr int record_head = 4;

// Vectors that are packed for an atom with P parts.
constexpr int packed_parts(int P) { return P == 3 ? 16 : 8; }

// One call. N atoms with `degree` slots each; F channels; P = 3 parts, or 2 in the first layer, where vectors are zero.
// The rows are those of potential/graph.py: full, so that the reverse of every edge is a slot too.
template <class T>
struct MessageArrays {
    Index n_atoms = 0;
    int degree = 0;
    int parts = 0;            // P
    int F = 0;
    int C = 0;                // channels of a chunk of the table
    int rows = 0;             // weights of an edge: rows of the table that it uses
    Index table_rows = 0;
    // What an edge is, made by `describe`.
    const T* records = nullptr;        // (E, 4 + 2 rows): r̂, 1/r, weights, slopes
    const int32_t* cells = nullptr;    // (E): first row of the table; −1 for slots without an edge
    const int32_t* counts = nullptr;   // (N): slots up to and including the last with an edge
    const int64_t* senders = nullptr;  // (E)
    const int64_t* reverse = nullptr;  // (E)
    // Arguments of the sums.
    const T* table = nullptr;    // [chunk][K][P][C]: filters w = Σ_m weight_m table[cell + m]
    const T* context = nullptr;  // (N, P F): c
    const T* vectors = nullptr;  // (N, 3, F): v; null in the first layer
    // Gradients γ and Γ of the sums.
    const T* scalar_gradient = nullptr;  // (N, F)
    const T* vector_gradient = nullptr;  // (N, 3, F)
    T* packed = nullptr;  // (N, vectors of channels, packed_parts, lanes): see MessageKernels::pack
    // Tangents of context, vectors (null: zero) and edge vectors.
    const T* context_tangent = nullptr;
    const T* vector_tangent = nullptr;
    const double* edge_tangent = nullptr;  // (E, 3)
    // Results.
    T* scalar_sum = nullptr;    // (N, F)
    T* vector_sum = nullptr;    // (N, 3, F)
    T* d_context = nullptr;     // (N, P F)
    T* d_vectors = nullptr;     // (N, 3, F); null in the first layer
    double* d_edges = nullptr;  // (E, 3)
};

// What a thread writes besides its rows of the results.
template <class T>
struct MessageScratch {
    T* d_table = nullptr;   // its share, laid out like the table
    T* partial = nullptr;   // (degree, 4)
    T* geometry = nullptr;  // (degree, 8): rates of change of an edge and of its reverse
};

// Functions of one instruction set, for the atoms [first, last).
template <class T>
struct MessageKernels {
    int lanes;
    // What `second` gathers of an atom, side by side for each vector of channels: c, a, γ, Γ, and
    // with three parts v, b; tangents that are not given are zero.
    void (*pack)(const MessageArrays<T>&, Index first, Index last);
    void (*describe)(const Shape<T>&, const double* vectors, Index count, T* records, int32_t* cells);
    void (*sum)(const MessageArrays<T>&, const MessageScratch<T>&, Index first, Index last);
    // Gradients of ⟨γ, s⟩ + ⟨Γ, V⟩: of context and vectors, and of edge vectors or of the table if there is room for them.
    void (*gradient)(const MessageArrays<T>&, const MessageScratch<T>&, Index first, Index last);
    // Derivatives of ⟨γ, ṡ⟩ + ⟨Γ, V̇⟩, with the dot along the tangents: the sums ṡ and V̇, and gradients of context,
    // vectors and table.
    void (*second)(const MessageArrays<T>&, const MessageScratch<T>&, Index first, Index last);
};

const MessageKernels<float>& generic_messages(float);
const MessageKernels<double>& generic_messages(double);
#if defined(HYDRAPOT_X86)
const MessageKernels<float>& avx2_messages(float);
const MessageKernels<double>& avx2_messages(double);
const MessageKernels<float>& avx512_messages(float);
const MessageKernels<double>& avx512_messages(double);
#endif

}  // namespace hydrapot
