// What the kernels of one instruction set are handed: plain structures of pointers, no code.
//
// T is the precision of the network. F is the number of channels rounded up to whole chunks (`Shape::chunk`), R the
// number of radial functions and Rp the same rounded up to whole vectors; padding channels have zero weights and stay
// without effect.
//
// Layouts of rows per atom, with C channels a chunk:
//   plain    [part][F]                       matrices of products
//   chunked  [chunk][part][C]                what the edge kernels gather: one chunk is one contiguous piece
#pragma once

#include <cstddef>
#include <cstdint>

namespace hydrapot {

using Index = std::ptrdiff_t;

// Rows of a tile of the matrix products. Blocks of atoms start at multiples of it, arrays are padded to it.
constexpr int gemm_rows = 6;

// Quintic B-splines that do not vanish at a point.
constexpr int spline_rows = 6;

// ε of the smooth norm √(|v|² + ε²), as in potential/backbones/painn.py.
constexpr double norm_softening = 0.1;

// A packed matrix for products C = A·W with k rows and n columns; bias may be null.
template <class T>
struct Dense {
    const T* packed = nullptr;
    const T* bias = nullptr;
    int k = 0;
    int n = 0;
};

// Unit vector and length of an edge, from receiver to sender; Å.
template <class T>
struct Edge {
    T x, y, z, r;
};

// Weights of one layer; those ending in _t are transposed, for the derivative. The first layer has no `phi`, `filters`
// and `hidden`: they are folded into the tables of the kinds.
template <class T>
struct Layer {
    Dense<T> phi_hidden, phi_hidden_t;    // F → F
    Dense<T> phi_context, phi_context_t;  // F → 3F, columns chunked
    const T* filters = nullptr;           // [chunk][row][3][C]; rows: spline coefficients or radial functions
    Dense<T> mix, mix_t;                  // F → 2F
    Dense<T> hidden, hidden_t;            // 2F → F (first layer: the half that acts on the norms, F → F)
    Dense<T> gates, gates_t;              // F → 3F, in the last layer 2F
    Dense<T> late_gates;                  // F → 2F: gates without the first third, what the derivative needs again
};

template <class T>
struct Head {
    Dense<T> hidden, hidden_t;  // F → H, H padded to whole vectors
    const T* output = nullptr;  // (H)
    double scale = 1.0;         // eV
};

// What an atom is before it has neighbors, (atomic number, charge, spin), and the first layer folded over it.
//
// The context c of the first layer depends on the kind of the sender only, so with A⁰ = Σ_e b_e and A¹ = Σ_e b_e r̂_e
// over the senders of one kind (b the radial functions),
//   Σ_e w⁰_e c⁰ = diag(c⁰) W⁰ A⁰,     Σ_e w¹_e c¹ r̂_e = diag(c¹) W¹ A¹,
// and the linear maps that follow are folded in: (F × R) per kind instead of work per edge.
template <class T>
struct Kind {
    Dense<T> scalar, scalar_t;   // R → [s | H_s s]: 2F
    Dense<T> vector, vector_t;   // R → [v | U v | V v]: 3F
    const T* base = nullptr;     // (2F): features s of the kind and H_s s + bias
    const double* isolated = nullptr;  // (heads): output of each head for the atom without neighbors, unscaled
};

template <class T>
struct Shape {
    int F = 0;
    int R = 0;
    int Rp = 0;
    int rows = 0;       // per edge: spline_rows, or R
    int layers = 0;
    int chunk = 0;      // channels a chunk
    bool spline = true;
    double cutoff = 0;
    double inverse_step = 0;      // knots per Å
    int cells = 0;
    Index table_rows = 0;         // rows of a filter table: cells + 5, or R
    const T* basis = nullptr;     // [row][Rp]: spline coefficients of the radial functions; spline only
    bool repulsion = true;
    const double* zbl_range = nullptr;  // (119): half of the range of a pair of the element with itself, Å
    const double* zbl_power = nullptr;  // (119): Z^0.23 / 0.46850 Å
};

// Node features that a layer k ≥ 1 gathers, per atom: context (3F chunked), vectors (3F chunked).
template <class T>
struct Nodes {
    T* context = nullptr;
    T* vectors = nullptr;
    Index stride = 0;
    // Gradients of scalars and vectors after the message of this layer: [chunk][4][C].
    T* gradient = nullptr;
    Index gradient_stride = 0;
    T* phi = nullptr;  // (N, F): argument of the SiLU in φ
};

// What the update of a layer leaves for its derivative.
template <class T>
struct Saved {
    T* mixed = nullptr;      // rows (atom, component): [u | v] 2F, first layer [· | u | v] 3F; null: recomputed
    T* vectors = nullptr;    // rows (atom, component): F, kept instead of `mixed` (not in the first layer)
    T* pre = nullptr;        // (N, F): argument of the SiLU
    T* gates = nullptr;      // (N, 3F); null: recomputed
};

// Results and scratch of one thread.
template <class T>
struct Scratch {
    int rows;               // atoms of the largest block, rounded up to whole tiles
    T *x;                   // rows of 2F
    T *y;                   // rows (atom, component) of 3F
    T *z;                   // rows (atom, component) of F
    T *hidden, *pre, *narrow;  // rows of F
    T *gates, *wide;        // rows of 3F, `wide` at least as wide as the widest head
    T* sums;                // per kind slot: A⁰ and A¹, rows · 4 · Rp
    int* slot_of_kind;      // (kinds), −1 outside a block
    int* kinds;             // kinds that occur in a block
    T *weights, *slopes;    // per edge of a tile of atoms: rows each
    int* cells;             // per edge of a tile
    T* partial;             // per edge of a tile: ∂E/∂r, ∂E/∂r̂
    double* forces;         // (n_total, 3)
    double* virials;        // (n_total, 9) or null: ∂E/∂ε shares
    double* virial;         // (n_structures, 9): ∂E/∂ε
    int status;             // bits status_*
};

// What a kernel found wrong with its input; it goes on without the edge.
constexpr int status_sender = 1;      // a sender is no atom
constexpr int status_coincident = 2;  // two atoms at one place
constexpr int status_not_finite = 4;  // a vector with NaN

// One evaluation.
template <class T>
struct Pass {
    Shape<T> shape;
    const Layer<T>* layer;
    const Head<T>* head;            // all heads of the model
    int n_heads;
    const int* active;              // heads in use
    int n_active;
    const double* head_weights;     // (n_structures, n_heads), or one row for all
    Index head_stride;
    const Kind<T>* const* kinds;    // by kind index
    const int32_t* kind;            // (n_total)
    const int32_t* numbers;         // (n_total)
    const int32_t* structure;       // (n_local) or null: all in structure 0

    Index n_local;
    Index n_total;
    const int64_t* offsets;         // (n_local + 1): rows of the caller's list
    const int32_t* senders32;       // one of the two
    const int64_t* senders64;
    const double* vectors;          // (E, 3), or null: from positions
    const double* positions;        // (n_total, 3)
    const int32_t* shifts;          // (E, 3) or null
    const double* cell;             // (n_structures, 9)

    int32_t* sender;                // (E): senders within the cutoff, row by row, each row at its offset
    int32_t* degree;                // (n_local)
    Edge<T>* edges;                 // (E)

    T* scalars;                     // (N, F) of the layer at hand
    Nodes<T>* nodes;                // by layer; [0] is not used
    Saved<T>* saved;                // by layer; the last is not used

    double* energies;               // (n_local): interaction energies
    double* features;               // (n_local, channels) or null
    int channels;
    double* raw;                    // (n_local, n_heads) or null: outputs of the heads; then no derivative
    bool gradients;
};

// Functions of one instruction set.
template <class T>
struct Kernels {
    int lanes;
    int panel;    // columns of a panel of packed weights
    int chunk;    // channels a chunk
    int tile;     // atoms whose edges are prepared together
    // Geometry of the rows, repulsion, first layer and φ of the second, for atoms [first, first + count).
    void (*first)(const Pass<T>&, Scratch<T>&, Index first, int count);
    // Layer 0 < k < last, and φ of the next.
    void (*middle)(const Pass<T>&, Scratch<T>&, int layer, Index first, int count);
    // Last layer, heads, and the derivative of its update.
    void (*last)(const Pass<T>&, Scratch<T>&, Index first, int count);
    // Derivative of the message of layer k ≥ 1, of its φ, and of the update of layer k − 1.
    void (*backward)(const Pass<T>&, Scratch<T>&, int layer, Index first, int count);
    // φ and layout of the vectors of layer k for atoms whose features arrived from elsewhere: (count, 4, channels).
    void (*receive)(const Pass<T>&, Scratch<T>&, int layer, const T* features, Index first, int count);
};

const Kernels<float>& generic_kernels(float);
const Kernels<double>& generic_kernels(double);
#if defined(HYDRAPOT_X86)
const Kernels<float>& avx2_kernels(float);
const Kernels<double>& avx2_kernels(double);
const Kernels<float>& avx512_kernels(float);
const Kernels<double>& avx512_kernels(double);
#endif

}  // namespace hydrapot
