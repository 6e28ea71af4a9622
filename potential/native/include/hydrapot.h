/* hydrapot.h: energies, forces and virials of a hydrapot potential on CPUs, without Python and without torch.
 *
 * Units are eV and Å. Signs are those of potential/derivatives.py: r_e = x_j - x_i for an edge with receiver i and sender
 * j, F = -dE/dx, virial = -dE/d(strain) = -sum_e (dE/dr_e) r_e^T.
 *
 * Objects
 * -------
 * source     Weights and what is known about each head, in float64, as a checkpoint has them. Filled by hydrapot_read or
 *            piece by piece by hydrapot_source_*; checked as a whole when a model is made.
 * model      A source prepared for a precision and for this processor. Immutable: any number of threads may share it.
 * workspace  Memory and threads of one evaluation at a time; grows with the largest system and is then reused. One per
 *            concurrent caller. It must not outlive its model.
 *
 * Every function that can fail returns a HYDRAPOT_* status; hydrapot_last_error() then has one line for the user, valid
 * until the next call of the same thread.
 *
 * Neighbor list
 * -------------
 * Rows per receiver: the edges of atom i are offsets[i] ... offsets[i+1]-1, for each the index of the sender and the
 * vector from receiver to sender (or positions and lattice shifts, from which it is computed). The list is full: every
 * pair of local atoms is there in both directions, periodic images one by one. Edges at or beyond the cutoff are ignored,
 * so a list with a skin, or rows padded to equal length, can be passed as they are.
 *
 * Domain decomposition
 * --------------------
 * Atoms 0 ... n_local-1 belong to the caller, n_local ... n_total-1 are ghosts: images, or atoms of other processes. Only
 * local atoms have rows; senders may be ghosts. A halo of one cutoff is enough, whatever the number of layers, because
 * features travel between processes. `exchange` is called (on the calling thread, also without any atom, always the same
 * number of times: 2 (layers - 1), forward only: layers - 1) with an array of n_total rows whose first n_local rows
 * are filled, and must copy to every ghost row the row of its owner, exactly as positions are communicated. That is all, in
 * both directions of the network:
 *
 *   forward   features of layer k, k = 1 ... layers-1      scalars and vectors, 4 x channels numbers
 *   backward  gradients of layer k, k = layers-1 ... 1     dE/d(scalars, vectors) after the message of layer k
 *
 * The derivative gathers: a local atom j sums over its own row what it sent to each neighbor i, with the gradients
 * of i, which for a ghost have come from the owner of i. So no reverse edge of a ghost is needed, nothing is
 * scattered into ghost rows of features, and there is no reverse communication of features. It does rely on the owner of i
 * having j in its row if and only if j has i: true of any list by distance (a pair on the very edge may differ by
 * rounding: it contributes nothing, being at the cutoff).
 *
 * Energies are those of local atoms. `forces` has n_total rows; what ghosts receive there is to be added to their
 * owners (in LAMMPS: newton on, the usual reverse communication), and likewise `virials`. The sum of `virial` over
 * processes is the virial.
 *
 * For LAMMPS: inum = nlocal, rows from the full list (REQ_FULL), forward communication of 4 x channels numbers per atom;
 * rows carry directions in space, so ghosts need no correction for periodic images.
 */
#ifndef HYDRAPOT_H
#define HYDRAPOT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define HYDRAPOT_API __declspec(dllexport)
#else
#define HYDRAPOT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a structure or function below changes. */
#define HYDRAPOT_ABI 2

enum {
    HYDRAPOT_OK = 0,
    HYDRAPOT_ERROR_CHECKPOINT = 1,    /* a file or weights that cannot be used */
    HYDRAPOT_ERROR_HEAD = 2,          /* unknown head, or none with a weight */
    HYDRAPOT_ERROR_ELEMENT = 3,       /* an element that a head was not trained on */
    HYDRAPOT_ERROR_CHARGE = 4,        /* a charge or spin that a head was not trained on */
    HYDRAPOT_ERROR_STRUCTURE = 5,     /* coincident atoms, not finite, a list that is not full */
    HYDRAPOT_ERROR_CONFIGURATION = 6, /* options or arguments that make no sense */
    HYDRAPOT_ERROR_SIMULATION = 7,    /* energy or forces are not finite */
    HYDRAPOT_ERROR_EXCHANGE = 8,      /* the callback returned an error */
    HYDRAPOT_ERROR_MEMORY = 9,
    HYDRAPOT_ERROR_INTERNAL = 10
};

typedef struct hydrapot_source hydrapot_source;
typedef struct hydrapot_model hydrapot_model;
typedef struct hydrapot_workspace hydrapot_workspace;

HYDRAPOT_API int hydrapot_abi(void);
HYDRAPOT_API const char* hydrapot_last_error(void);
/* Instruction sets that this build has and this processor can run, best first, separated by blanks. */
HYDRAPOT_API const char* hydrapot_instruction_sets(void);

/* ---- sources ---------------------------------------------------------------------------------------------------- */

typedef struct {
    size_t size; /* sizeof(hydrapot_architecture) */
    int32_t channels, layers, n_radial, head_hidden;
    int32_t charge_spin; /* 0 or 1: conditioning tables */
    int32_t repulsion;   /* 0 none, 1 ZBL */
    double cutoff, neighbor_scale;
} hydrapot_architecture;

/* Reads a checkpoint (.safetensors) strictly: schema version, content hash, names and shapes of all tensors. */
HYDRAPOT_API int hydrapot_read(const char* path, hydrapot_source** source);
HYDRAPOT_API int hydrapot_source_create(const hydrapot_architecture* architecture, hydrapot_source** source);
/* A tensor by its name in the state_dict of the torch model, row-major; replaces one of the same name. */
HYDRAPOT_API int hydrapot_source_tensor(hydrapot_source* source, const char* name, const int64_t* shape, int32_t ndim,
                                        const double* data);
/* A head. references: (119) eV by atomic number, NaN where there is none. known: (119), nonzero for elements it was trained
 * on. charge_spin: (n_charge_spin, 2), spin 0 for "not stated". */
HYDRAPOT_API int hydrapot_source_head(hydrapot_source* source, const char* name, double scale, const double* references,
                                      const uint8_t* known, const int32_t* charge_spin, int32_t n_charge_spin);
HYDRAPOT_API void hydrapot_source_destroy(hydrapot_source* source);

/* ---- models ----------------------------------------------------------------------------------------------------- */

typedef struct {
    size_t size;                 /* sizeof(hydrapot_options) */
    int32_t precision;           /* of the network: 32 or 64 bits; geometry and sums of energies are float64 */
    int32_t knots;               /* of the radial splines; 0: radial functions exactly */
    const char* instruction_set; /* "generic", "avx2", "avx512"; NULL: the best of this processor */
} hydrapot_options;

HYDRAPOT_API int hydrapot_model_create(const hydrapot_source* source, const hydrapot_options* options,
                                       hydrapot_model** model);
HYDRAPOT_API void hydrapot_model_destroy(hydrapot_model* model);
HYDRAPOT_API int hydrapot_model_architecture(const hydrapot_model* model, hydrapot_architecture* architecture);
HYDRAPOT_API int32_t hydrapot_model_heads(const hydrapot_model* model);
HYDRAPOT_API const char* hydrapot_model_head_name(const hydrapot_model* model, int32_t head);
/* Index of a head, -1 (and an error text) if there is none of this name. */
HYDRAPOT_API int32_t hydrapot_model_head_index(const hydrapot_model* model, const char* name);
/* eV of the isolated atom; NaN where the head knows none. */
HYDRAPOT_API double hydrapot_model_reference(const hydrapot_model* model, int32_t head, int32_t number);
HYDRAPOT_API const char* hydrapot_model_instruction_set(const hydrapot_model* model);

/* ---- evaluation ------------------------------------------------------------------------------------------------- */

HYDRAPOT_API int hydrapot_workspace_create(const hydrapot_model* model, int32_t threads, hydrapot_workspace** workspace);
HYDRAPOT_API void hydrapot_workspace_destroy(hydrapot_workspace* workspace);
/* Bytes that the workspace holds. */
HYDRAPOT_API size_t hydrapot_workspace_bytes(const hydrapot_workspace* workspace);

/* Fills ghost rows of `rows` (n_total rows of `width` numbers of `item` bytes, contiguous) from their owners; 0 if all went
 * well. stage: 0 features, 1 gradients. The layout is the same on all processors. */
typedef int (*hydrapot_exchange)(void* context, int32_t stage, int32_t layer, void* rows, int64_t n_local,
                                 int64_t n_total, int32_t width, int32_t item);

typedef struct {
    size_t size; /* sizeof(hydrapot_input) */
    int64_t n_local, n_total, n_structures;
    const int32_t* numbers;            /* (n_total) atomic numbers */
    const int64_t* structure_offsets;  /* (n_structures + 1) first atom of each; NULL: a single one */
    const int32_t* charge;             /* (n_structures); NULL: 0 */
    const int32_t* spin;               /* (n_structures) 2S+1, 0 not stated; NULL: 0 */
    const double* head_weights;        /* (n_structures, heads) or one row for all: E = sum of weight x energy of a head */
    int64_t head_weights_stride;       /* numbers between rows; 0: one row for all */
    const int64_t* offsets;            /* (n_local + 1) */
    const int32_t* senders;            /* (edges), or */
    const int64_t* senders64;          /* (edges) */
    const double* vectors;             /* (edges, 3) Å, or */
    const double* positions;           /* (n_total, 3) Å, with */
    const int32_t* shifts;             /* (edges, 3) lattice vectors added to the sender; NULL: none */
    const double* cells;               /* (n_structures, 3, 3) Å, rows; needed with shifts */
    hydrapot_exchange exchange;        /* NULL without ghosts */
    void* exchange_context;
    int32_t check;                     /* bit 0: elements, charge and spin; bit 1: list is full (costs a few percent) */
} hydrapot_input;

typedef struct {
    size_t size;          /* sizeof(hydrapot_output); any pointer may be NULL: not wanted */
    double* energy;       /* (n_structures) eV, interaction: without reference energies */
    double* energies;     /* (n_local) eV, interaction */
    double* forces;       /* (n_total, 3) eV/Å; without forces, virial and virials no derivative is computed */
    double* virial;       /* (n_structures, 3, 3) eV, symmetrized */
    double* virials;      /* (n_total, 3, 3) eV, share of each receiver, not symmetric */
    double* features;     /* (n_local, channels) node features */
} hydrapot_output;

HYDRAPOT_API int hydrapot_evaluate(const hydrapot_model* model, hydrapot_workspace* workspace,
                                   const hydrapot_input* input, const hydrapot_output* output);

#ifdef __cplusplus
}
#endif

#endif
