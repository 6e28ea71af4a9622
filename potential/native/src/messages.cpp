#include "messages.hpp"

#include <algorithm>
#include <cstring>

#include "cpu.hpp"
#include "error.hpp"
#include "spline.hpp"

namespace hydrapot {

namespace {

template <class T>
const MessageKernels<T>& kernels_of(const std::string& set) {
#if defined(HYDRAPOT_X86)
    if (set == "avx512") {
        return avx512_messages(T{});
    }
    if (set == "avx2") {
        return avx2_messages(T{});
    }
#endif
    return generic_messages(T{});
}

// The widest instruction set whose vectors divide the channels.
template <class T>
std::string choose(int channels, const std::string& wanted) {
    for (const std::string& set : instruction_sets()) {
        if ((wanted.empty() || set == wanted) && channels % kernels_of<T>(set).lanes == 0) {
            return set;
        }
    }
    const std::string vectors = wanted.empty() ? "any instruction set" : "instruction set '" + wanted + "'";
    throw Error(HYDRAPOT_ERROR_CONFIGURATION,
                std::to_string(channels) + " channels do not fill the vectors of " + vectors + " of this processor");
}

}  // namespace

template <class T>
Messages<T>::Messages(int channels, int n_radial, double cutoff, int knots, int threads, Region region,
                      const std::string& instruction_set)
    : instruction_set_(choose<T>(channels, instruction_set)),
      kernels_(&kernels_of<T>(instruction_set_)),
      team_(threads, region),
      tables_(threads),
      partials_(threads),
      geometries_(threads),
      borders_(threads + 1) {
    shape_.F = channels;
    // Two vectors at a time hide more of the latency than one.
    shape_.chunk = channels % (2 * kernels_->lanes) == 0 ? 2 * kernels_->lanes : kernels_->lanes;
    shape_.R = n_radial;
    shape_.cutoff = cutoff;
    shape_.spline = knots > 0;
    shape_.cells = knots;
    shape_.inverse_step = knots / cutoff;
    shape_.rows = knots > 0 ? spline_rows : n_radial;
    shape_.table_rows = knots > 0 ? knots + spline_rows - 1 : n_radial;
    if (knots > 0) {
        basis_ = spline_coefficients(cutoff, n_radial, knots);
    } else {
        basis_.assign(static_cast<size_t>(n_radial) * n_radial, 0.0);
        for (int n = 0; n < n_radial; ++n) {
            basis_[static_cast<size_t>(n) * n_radial + n] = 1.0;
        }
    }
}

template <class T>
void Messages<T>::describe(const double* vectors, Index n_atoms, int degree, T* records, int32_t* cells,
                           int32_t* counts) {
    team_.run([&](int thread) {
        const Index first = n_atoms * thread / team_.size(), last = n_atoms * (thread + 1) / team_.size();
        for (Index i = first; i < last; ++i) {
            const Index e = i * degree;
            kernels_->describe(shape_, vectors + 3 * e, degree, records + e * record_width(), cells + e);
            int count = degree;
            while (count > 0 && cells[e + count - 1] < 0) {
                --count;
            }
            counts[i] = count;
        }
    });
}

// work(plain, chunked, count) for all pieces of a table that are contiguous in both layouts: (K, P F), [chunk][K][P][C].
template <class T>
template <class Work>
void Messages<T>::over_table(int parts, const Work& work) const {
    const Index F = shape_.F, C = shape_.chunk, K = shape_.table_rows;
    for (Index f = 0; f < F; f += C) {
        for (Index row = 0; row < K; ++row) {
            for (Index part = 0; part < parts; ++part) {
                work((row * parts + part) * F + f, f * parts * K + (row * parts + part) * C, C);
            }
        }
    }
}

// Fills in what the object knows, and lays the table out by chunks.
template <class T>
void Messages<T>::complete(MessageArrays<T>& a) {
    a.F = shape_.F;
    a.C = shape_.chunk;
    a.rows = shape_.rows;
    a.table_rows = shape_.table_rows;
    const T* plain = a.table;
    T* chunked = table_.reserve(static_cast<size_t>(a.table_rows) * a.parts * a.F);
    over_table(a.parts, [&](Index from, Index to, Index count) { std::copy_n(plain + from, count, chunked + to); });
    a.table = chunked;
}

// work(thread, first, last) with equal shares of the edges; the same shares for the same rows and number of threads.
template <class T>
template <class Work>
void Messages<T>::over_atoms(const MessageArrays<T>& a, const Work& work) {
    const int threads = team_.size();
    Index total = 0;
    for (Index i = 0; i < a.n_atoms; ++i) {
        total += a.counts[i] + 1;
    }
    Index seen = 0, i = 0;
    borders_[0] = 0;
    for (int t = 1; t < threads; ++t) {
        for (; i < a.n_atoms && seen * threads < total * t; ++i) {
            seen += a.counts[i] + 1;
        }
        borders_[t] = i;
    }
    borders_[threads] = a.n_atoms;
    team_.run([&](int thread) { work(thread, borders_[thread], borders_[thread + 1]); });
}

template <class T>
void Messages<T>::sum(MessageArrays<T> a) {
    complete(a);
    over_atoms(a, [&](int, Index first, Index last) { kernels_->sum(a, {}, first, last); });
}

template <class T>
void Messages<T>::with_scratch(const MessageArrays<T>& a, T* d_table,
                               void (*kernel)(const MessageArrays<T>&, const MessageScratch<T>&, Index, Index)) {
    const size_t size = static_cast<size_t>(a.table_rows) * a.parts * a.F;
    for (int thread = 0; thread < team_.size(); ++thread) {  // here, since threads must not throw
        partials_[thread].reserve(static_cast<size_t>(a.degree) * 4);
        geometries_[thread].reserve(static_cast<size_t>(a.degree) * 8);
        if (d_table) {
            tables_[thread].reserve(size);
        }
    }
    over_atoms(a, [&](int thread, Index first, Index last) {
        MessageScratch<T> scratch;
        scratch.partial = partials_[thread].data();
        scratch.geometry = geometries_[thread].data();
        if (d_table) {
            scratch.d_table = tables_[thread].data();
            std::memset(static_cast<void*>(scratch.d_table), 0, size * sizeof(T));
        }
        kernel(a, scratch, first, last);
    });
    if (!d_table) {
        return;
    }
    over_table(a.parts, [&](Index to, Index from, Index count) {
        std::copy_n(tables_[0].data() + from, count, d_table + to);
        for (int thread = 1; thread < team_.size(); ++thread) {  // in their order: the same bits on every run
            const T* share = tables_[thread].data() + from;
            for (Index k = 0; k < count; ++k) {
                d_table[to + k] += share[k];
            }
        }
    });
}

template <class T>
void Messages<T>::gradient(MessageArrays<T> a, T* d_table) {
    complete(a);
    with_scratch(a, d_table, kernels_->gradient);
}

template <class T>
void Messages<T>::second(MessageArrays<T> a, T* d_table) {
    complete(a);
    a.packed = packed_.reserve(static_cast<size_t>(a.n_atoms) * a.F * packed_parts(a.parts));
    over_atoms(a, [&](int, Index first, Index last) { kernels_->pack(a, first, last); });
    with_scratch(a, d_table, kernels_->second);
}

template class Messages<float>;
template class Messages<double>;

}  // namespace hydrapot
