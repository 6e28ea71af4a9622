/* hydrapot_messages.h: the sums over neighbors of PaiNN with first and second derivatives, for training on CPUs.
 *
 * Part of the library of hydrapot.h, whose status codes and hydrapot_last_error() it uses. Arrays are plain, row-major and
 * the caller's; numbers marked "real" are float or double, as the object was made for. Notation: src/kernels/messages.hpp.
 *
 * N atoms have `degree` slots each, E = N * degree; every pair is there in both directions, `reverse` is the slot of the
 * other. Slots of length >= cutoff are no edges. F channels, P = 3 parts, or 2 in the first layer, where
 * vectors are zero and NULL.
 * An object does one call at a time.
 */
#ifndef HYDRAPOT_MESSAGES_H
#define HYDRAPOT_MESSAGES_H

#include "hydrapot.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hydrapot_messages hydrapot_messages;

typedef struct {
    size_t size;       /* sizeof(hydrapot_messages_options) */
    int32_t channels;  /* F */
    int32_t n_radial;
    int32_t precision; /* 32 or 64 bits */
    int32_t knots;     /* of splines that stand for the radial functions; 0: the functions themselves */
    int32_t threads;
    double cutoff;               /* Å */
    const char* instruction_set; /* as in hydrapot_options; NULL: the best whose vectors divide the channels */
    /* Runs function(argument) on so many threads of the caller's: GOMP_parallel of the OpenMP library that the caller uses
     * between calls. NULL: threads of our own. */
    void (*region)(void (*function)(void*), void* argument, unsigned threads, unsigned flags);
} hydrapot_messages_options;

HYDRAPOT_API int hydrapot_messages_create(const hydrapot_messages_options* options, hydrapot_messages** messages);
HYDRAPOT_API void hydrapot_messages_destroy(hydrapot_messages* messages);
/* K, rows of a table of filters. */
HYDRAPOT_API int64_t hydrapot_messages_table_rows(const hydrapot_messages* messages);
/* Numbers that describe an edge. */
HYDRAPOT_API int64_t hydrapot_messages_record_width(const hydrapot_messages* messages);
HYDRAPOT_API const char* hydrapot_messages_instruction_set(const hydrapot_messages* messages);
/* (K, n_radial): a filter with weights W on the radial functions has the table basis * W^T. */
HYDRAPOT_API int hydrapot_messages_basis(const hydrapot_messages* messages, double* basis);

/* What later calls need of every edge: records (E, record width) real, cells (E), counts (N). vectors: (E, 3) Å. */
HYDRAPOT_API int hydrapot_messages_describe(hydrapot_messages* messages, int64_t n_atoms, int64_t degree,
                                            const double* vectors, void* records, int32_t* cells, int32_t* counts);

typedef struct {
    size_t size; /* sizeof(hydrapot_messages_arrays) */
    int64_t n_atoms, degree;
    int32_t parts;          /* P: 3, or 2 without vectors */
    const void* records;    /* of hydrapot_messages_describe */
    const int32_t* cells;
    const int32_t* counts;
    const int64_t* senders; /* (E), each an atom */
    const int64_t* reverse; /* (E) */
    const void* table;      /* (K, P F) real */
    const void* context;    /* (N, P F) real */
    const void* vectors;    /* (N, 3, F) real, or NULL */
    /* gradients of the sums, for the derivatives */
    const void* scalar_gradient; /* (N, F) real */
    const void* vector_gradient; /* (N, 3, F) real */
    /* tangents, for the second derivative */
    const void* context_tangent; /* (N, P F) real, or NULL: zero */
    const void* vector_tangent;  /* (N, 3, F) real, or NULL: zero */
    const double* edge_tangent;  /* (E, 3) */
    /* results; which of them, each function says */
    void* scalar_sum;   /* (N, F) real */
    void* vector_sum;   /* (N, 3, F) real */
    void* context_out;  /* (N, P F) real */
    void* vectors_out;  /* (N, 3, F) real; not without vectors */
    double* edges_out;  /* (E, 3) */
    void* table_out;    /* (K, P F) real */
} hydrapot_messages_arrays;

/* The sums. */
HYDRAPOT_API int hydrapot_messages_sum(hydrapot_messages* messages, const hydrapot_messages_arrays* arrays);
/* Gradients of <scalar_gradient, scalar sum> + <vector_gradient, vector sum> with respect to context and vectors, and to
 * either edge vectors or table: one of edges_out and table_out must be NULL. */
HYDRAPOT_API int hydrapot_messages_gradient(hydrapot_messages* messages, const hydrapot_messages_arrays* arrays);
/* The rates of the sums along the tangents, and the gradients of <scalar_gradient, rate of the scalar sum> +
 * <vector_gradient, rate of the vector sum> with respect to context, vectors and table. */
HYDRAPOT_API int hydrapot_messages_second(hydrapot_messages* messages, const hydrapot_messages_arrays* arrays);

#ifdef __cplusplus
}
#endif

#endif
