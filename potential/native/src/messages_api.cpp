// The C interface of include/hydrapot_messages.h.
#include <atomic>
#include <memory>
#include <string>
#include <variant>

#include "../include/hydrapot_messages.h"
#include "guarded.hpp"
#include "messages.hpp"

using namespace hydrapot;

struct hydrapot_messages {
    std::variant<std::unique_ptr<Messages<float>>, std::unique_ptr<Messages<double>>> sums;
    std::atomic<bool> busy{false};
};

namespace {

template <class T>
MessageArrays<T> typed(const Messages<T>&, const hydrapot_messages_arrays& a) {
    MessageArrays<T> arrays;
    const auto real = [](const void* p) { return static_cast<const T*>(p); };
    const auto out = [](void* p) { return static_cast<T*>(p); };
    arrays.n_atoms = a.n_atoms;
    arrays.degree = static_cast<int>(a.degree);
    arrays.parts = a.parts;
    arrays.records = real(a.records);
    arrays.cells = a.cells;
    arrays.counts = a.counts;
    arrays.senders = a.senders;
    arrays.reverse = a.reverse;
    arrays.table = real(a.table);
    arrays.context = real(a.context);
    arrays.vectors = real(a.vectors);
    arrays.scalar_gradient = real(a.scalar_gradient);
    arrays.vector_gradient = real(a.vector_gradient);
    arrays.context_tangent = real(a.context_tangent);
    arrays.vector_tangent = real(a.vector_tangent);
    arrays.edge_tangent = a.edge_tangent;
    arrays.scalar_sum = out(a.scalar_sum);
    arrays.vector_sum = out(a.vector_sum);
    arrays.d_context = out(a.context_out);
    arrays.d_vectors = out(a.vectors_out);
    arrays.d_edges = a.edges_out;
    return arrays;
}

void check_size(int64_t n_atoms, int64_t degree) {
    if (n_atoms < 0 || degree < 0 || degree > INT32_MAX || (degree > 0 && n_atoms > INT64_MAX / 64 / degree)) {
        refuse("a number of atoms or of neighbors that makes no sense");
    }
}

// What all calls need; `wanted` are the results of this one.
void check_arrays(const hydrapot_messages* messages, const hydrapot_messages_arrays* a, bool gradients,
                  std::initializer_list<const void*> wanted) {
    if (!messages || !a || a->size != sizeof(hydrapot_messages_arrays)) {
        refuse("a null pointer, or structures of another version of the library");
    }
    check_size(a->n_atoms, a->degree);
    if ((a->parts != 2 && a->parts != 3) || (a->parts == 2 && a->vectors)) {
        refuse("parts must be 3, or 2 without vectors");
    }
    if (!a->table) {
        refuse("an array that this call needs is missing");
    }
    if (a->n_atoms == 0) {
        return;
    }
    bool complete = a->counts && a->context && (a->parts == 2 || a->vectors);
    complete &= a->degree == 0 || (a->records && a->cells && a->senders && a->reverse);
    complete &= !gradients || (a->scalar_gradient && a->vector_gradient);
    for (const void* pointer : wanted) {
        complete &= pointer != nullptr;
    }
    if (!complete) {
        refuse("an array that this call needs is missing");
    }
}

// work(sums) alone; with typed arrays.
template <class Work>
void alone(hydrapot_messages* messages, const Work& work) {
    if (messages->busy.exchange(true)) {
        refuse("these sums are in use by another thread: each needs its own");
    }
    struct Release {
        std::atomic<bool>& flag;
        ~Release() { flag = false; }
    } release{messages->busy};
    std::visit([&](const auto& sums) { work(*sums); }, messages->sums);
}

template <class T>
T* real_of(const Messages<T>&, void* p) {
    return static_cast<T*>(p);
}

}  // namespace

extern "C" {

int hydrapot_messages_create(const hydrapot_messages_options* options, hydrapot_messages** messages) {
    return guarded([&] {
        if (!options || !messages || options->size != sizeof(hydrapot_messages_options)) {
            refuse("a null pointer, or structures of another version of the library");
        }
        *messages = nullptr;
        if (options->precision != 32 && options->precision != 64) {
            refuse("precision must be 32 or 64 bits");
        }
        if (options->knots != 0 && (options->knots < 16 || options->knots > 1 << 16)) {
            refuse("knots must be 0 (exact) or from 16 to 65536");
        }
        if (options->channels < 1 || options->n_radial < 1 || !(options->cutoff > 0)) {
            refuse("channels, radial functions and cutoff must be positive");
        }
        if (options->threads < 1 || options->threads > most_threads) {
            refuse("threads must be at least 1 (and at most 4096), not " + std::to_string(options->threads));
        }
        const std::string set = options->instruction_set ? options->instruction_set : "";
        auto made = std::make_unique<hydrapot_messages>();
        const auto fill = [&](auto& sums) {
            using Sums = typename std::decay_t<decltype(sums)>::element_type;
            sums = std::make_unique<Sums>(options->channels, options->n_radial, options->cutoff, options->knots,
                                          options->threads, options->region, set);
        };
        if (options->precision == 32) {
            std::unique_ptr<Messages<float>> sums;
            fill(sums);
            made->sums = std::move(sums);
        } else {
            std::unique_ptr<Messages<double>> sums;
            fill(sums);
            made->sums = std::move(sums);
        }
        *messages = made.release();
    });
}

void hydrapot_messages_destroy(hydrapot_messages* messages) { delete messages; }

int64_t hydrapot_messages_table_rows(const hydrapot_messages* messages) {
    return std::visit([](const auto& sums) { return static_cast<int64_t>(sums->table_rows()); }, messages->sums);
}

int64_t hydrapot_messages_record_width(const hydrapot_messages* messages) {
    return std::visit([](const auto& sums) { return static_cast<int64_t>(sums->record_width()); }, messages->sums);
}

const char* hydrapot_messages_instruction_set(const hydrapot_messages* messages) {
    return std::visit([](const auto& sums) { return sums->instruction_set().c_str(); }, messages->sums);
}

int hydrapot_messages_basis(const hydrapot_messages* messages, double* basis) {
    return guarded([&] {
        if (!messages || !basis) {
            refuse("a null pointer");
        }
        std::visit([&](const auto& sums) { std::copy(sums->basis().begin(), sums->basis().end(), basis); },
                   messages->sums);
    });
}

int hydrapot_messages_describe(hydrapot_messages* messages, int64_t n_atoms, int64_t degree, const double* vectors,
                               void* records, int32_t* cells, int32_t* counts) {
    return guarded([&] {
        check_size(n_atoms, degree);
        if (!messages || (n_atoms > 0 && (!counts || (degree > 0 && (!vectors || !records || !cells))))) {
            refuse("a null pointer");
        }
        alone(messages, [&](auto& sums) {
            sums.describe(vectors, n_atoms, static_cast<int>(degree), real_of(sums, records), cells, counts);
        });
    });
}

int hydrapot_messages_sum(hydrapot_messages* messages, const hydrapot_messages_arrays* arrays) {
    return guarded([&] {
        check_arrays(messages, arrays, false, {arrays ? arrays->scalar_sum : nullptr, arrays ? arrays->vector_sum : nullptr});
        alone(messages, [&](auto& sums) { sums.sum(typed(sums, *arrays)); });
    });
}

int hydrapot_messages_gradient(hydrapot_messages* messages, const hydrapot_messages_arrays* arrays) {
    return guarded([&] {
        check_arrays(messages, arrays, true, {arrays ? arrays->context_out : nullptr});
        const bool both = arrays->edges_out && arrays->table_out;
        if (both || (arrays->n_atoms > 0 && !arrays->edges_out && !arrays->table_out)) {
            refuse("give either edges_out or table_out");
        }
        if (arrays->n_atoms > 0 && arrays->parts == 3 && !arrays->vectors_out) {
            refuse("an array that this call needs is missing");
        }
        alone(messages, [&](auto& sums) {
            sums.gradient(typed(sums, *arrays), real_of(sums, arrays->table_out));
        });
    });
}

int hydrapot_messages_second(hydrapot_messages* messages, const hydrapot_messages_arrays* arrays) {
    return guarded([&] {
        check_arrays(messages, arrays, true,
                     {arrays ? arrays->context_out : nullptr, arrays ? arrays->scalar_sum : nullptr,
                      arrays ? arrays->vector_sum : nullptr, arrays ? arrays->table_out : nullptr});
        const bool three = arrays->n_atoms > 0 && arrays->parts == 3, edges = arrays->n_atoms > 0 && arrays->degree > 0;
        if (!arrays->table_out || (three && !arrays->vectors_out) || (edges && !arrays->edge_tangent)) {
            refuse("an array that this call needs is missing");
        }
        alone(messages, [&](auto& sums) {
            sums.second(typed(sums, *arrays), real_of(sums, arrays->table_out));
        });
    });
}

}  // extern "C"
