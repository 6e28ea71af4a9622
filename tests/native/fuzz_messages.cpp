// Random sums over neighbors and their derivatives through the C interface, to be built with sanitizers.
//
// Sizes, rows, precisions, splines, instruction sets, threads (own ones and borrowed ones) are drawn at random. Every result is held
// against another way to the same number: instruction sets and threads against one plain thread, and the second derivative
// against the first by the identity that defines it, <gradients of sums, rates of sums> = <gradients, tangents>.
// Usage: fuzz_messages SEED ROUNDS.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "hydrapot_messages.h"

namespace {

std::mt19937_64 generator;

int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }

#define REQUIRE(condition)                                                                                \
    do {                                                                                                  \
        if (!(condition)) {                                                                               \
            std::fprintf(stderr, "line %d: %s failed; %s\n", __LINE__, #condition, hydrapot_last_error()); \
            std::exit(1);                                                                                 \
        }                                                                                                 \
    } while (false)

template <class T>
std::vector<T> normal(size_t n) {
    std::normal_distribution<double> draw;
    std::vector<T> values(n);
    for (T& x : values) {
        x = static_cast<T>(draw(generator));
    }
    return values;
}

// Rows of equal length with both directions of every pair, some slots empty, some beyond the cutoff, some on an atom itself.
struct Rows {
    int64_t atoms = 0, degree = 0;
    std::vector<double> vectors;
    std::vector<int64_t> senders, reverse;
};

Rows random_rows(double cutoff) {
    Rows rows;
    rows.atoms = whole(0, 3) == 0 ? whole(0, 1) : whole(1, 40);
    const int64_t degree = rows.degree = whole(2, 30);
    const int64_t slots = rows.atoms * degree;
    rows.vectors.assign(static_cast<size_t>(3 * slots), 0.0);
    rows.senders.resize(static_cast<size_t>(slots));
    rows.reverse.resize(static_cast<size_t>(slots));
    std::vector<int64_t> used(static_cast<size_t>(rows.atoms), 0);
    for (int64_t e = 0; e < slots; ++e) {
        rows.vectors[static_cast<size_t>(3 * e)] = cutoff;
        rows.senders[static_cast<size_t>(e)] = e / degree;
        rows.reverse[static_cast<size_t>(e)] = e;
    }
    for (int64_t trial = 0; trial < slots / 2; ++trial) {
        const int64_t i = whole(0, static_cast<int>(rows.atoms) - 1), j = whole(0, static_cast<int>(rows.atoms) - 1);
        int64_t &at_i = used[static_cast<size_t>(i)], &at_j = used[static_cast<size_t>(j)];
        if (at_i + (i == j) >= degree || at_j >= degree) {
            continue;
        }
        const size_t a = static_cast<size_t>(i * degree + at_i++), b = static_cast<size_t>(j * degree + at_j++);
        rows.senders[a] = j;
        rows.senders[b] = i;
        rows.reverse[a] = static_cast<int64_t>(b);
        rows.reverse[b] = static_cast<int64_t>(a);
        double square = 0, r[3];
        for (double& x : r) {
            x = real(-1, 1);
            square += x * x;
        }
        const double length = real(0.3, 1.15) * cutoff;
        for (size_t d = 0; d < 3; ++d) {
            rows.vectors[3 * a + d] = r[d] * length / std::sqrt(square);
            rows.vectors[3 * b + d] = -rows.vectors[3 * a + d];
        }
    }
    return rows;
}

void borrowed(void (*function)(void*), void* argument, unsigned threads, unsigned) {
    // Fewer than asked for, as OpenMP may do.
    std::vector<std::thread> others;
    for (unsigned k = 1; k < std::max(2u, threads - 1); ++k) {
        others.emplace_back(function, argument);
    }
    function(argument);
    for (std::thread& other : others) {
        other.join();
    }
}

template <class T>
struct Inputs {
    std::vector<T> context, vectors, scalar_gradient, vector_gradient, context_tangent, vector_tangent;
    std::vector<double> filters, edge_tangent;
};

template <class T>
struct Results {
    std::vector<T> scalar_sum, vector_sum, d_context, d_vectors, weight_table, scalar_rate, vector_rate, second_context,
        second_vectors, second_table;
    std::vector<double> d_edges;
};

template <class T>
Results<T> evaluate(const hydrapot_messages_options& options, const Rows& rows, const Inputs<T>& in, bool vectors) {
    hydrapot_messages* sums = nullptr;
    REQUIRE(hydrapot_messages_create(&options, &sums) == HYDRAPOT_OK);
    const size_t N = static_cast<size_t>(rows.atoms), E = static_cast<size_t>(rows.atoms * rows.degree);
    const size_t F = static_cast<size_t>(options.channels), P = vectors ? 3 : 2, R = static_cast<size_t>(options.n_radial);
    const size_t K = static_cast<size_t>(hydrapot_messages_table_rows(sums));
    std::vector<double> basis(K * R);
    REQUIRE(hydrapot_messages_basis(sums, basis.data()) == HYDRAPOT_OK);
    std::vector<T> table(K * P * F, T(0));
    for (size_t k = 0; k < K; ++k) {
        for (size_t f = 0; f < P * F; ++f) {
            double total = 0;
            for (size_t n = 0; n < R; ++n) {
                total += basis[k * R + n] * in.filters[f * R + n];
            }
            table[k * P * F + f] = static_cast<T>(total);
        }
    }
    std::vector<T> records(E * static_cast<size_t>(hydrapot_messages_record_width(sums)));
    std::vector<int32_t> cells(E), counts(N);
    REQUIRE(hydrapot_messages_describe(sums, rows.atoms, rows.degree, rows.vectors.data(), records.data(), cells.data(),
                                       counts.data()) == HYDRAPOT_OK);
    Results<T> out;
    hydrapot_messages_arrays a{};
    a.size = sizeof(a);
    a.n_atoms = rows.atoms;
    a.degree = rows.degree;
    a.parts = vectors ? 3 : 2;
    a.records = records.data();
    a.cells = cells.data();
    a.counts = counts.data();
    a.senders = rows.senders.data();
    a.reverse = rows.reverse.data();
    a.table = table.data();
    a.context = in.context.data();
    a.vectors = vectors ? in.vectors.data() : nullptr;
    const auto room = [](auto& array, size_t n) {
        array.assign(n, std::numeric_limits<double>::quiet_NaN());  // nothing may be left as it was
        return array.data();
    };
    a.scalar_sum = room(out.scalar_sum, N * F);
    a.vector_sum = room(out.vector_sum, 3 * N * F);
    REQUIRE(hydrapot_messages_sum(sums, &a) == HYDRAPOT_OK);
    a.scalar_gradient = in.scalar_gradient.data();
    a.vector_gradient = in.vector_gradient.data();
    a.context_out = room(out.d_context, N * P * F);
    a.vectors_out = vectors ? room(out.d_vectors, 3 * N * F) : nullptr;
    a.edges_out = room(out.d_edges, 3 * E);
    REQUIRE(hydrapot_messages_gradient(sums, &a) == HYDRAPOT_OK);
    a.edges_out = nullptr;
    a.table_out = room(out.weight_table, K * P * F);
    REQUIRE(hydrapot_messages_gradient(sums, &a) == HYDRAPOT_OK);
    a.context_tangent = in.context_tangent.data();
    a.vector_tangent = vectors ? in.vector_tangent.data() : nullptr;
    a.edge_tangent = in.edge_tangent.data();
    a.scalar_sum = room(out.scalar_rate, N * F);
    a.vector_sum = room(out.vector_rate, 3 * N * F);
    a.context_out = room(out.second_context, N * P * F);
    a.vectors_out = vectors ? room(out.second_vectors, 3 * N * F) : nullptr;
    a.table_out = room(out.second_table, K * P * F);
    REQUIRE(hydrapot_messages_second(sums, &a) == HYDRAPOT_OK);
    hydrapot_messages_destroy(sums);
    return out;
}

template <class A, class B>
double dot(const std::vector<A>& a, const std::vector<B>& b) {
    double total = 0;
    for (size_t k = 0; k < std::min(a.size(), b.size()); ++k) {
        total += double(a[k]) * double(b[k]);
    }
    return total;
}

template <class T>
void require_close(const std::vector<T>& a, const std::vector<T>& b, double tolerance) {
    REQUIRE(a.size() == b.size());
    double scale = 1.0;
    for (T x : b) {
        scale = std::max(scale, std::abs(double(x)));
    }
    for (size_t k = 0; k < a.size(); ++k) {
        REQUIRE(std::abs(double(a[k]) - double(b[k])) <= tolerance * scale);
    }
}

template <class T>
void require_same(const Results<T>& a, const Results<T>& b, double tolerance) {
    require_close(a.scalar_sum, b.scalar_sum, tolerance);
    require_close(a.vector_sum, b.vector_sum, tolerance);
    require_close(a.d_context, b.d_context, tolerance);
    require_close(a.d_vectors, b.d_vectors, tolerance);
    require_close(a.d_edges, b.d_edges, tolerance);
    require_close(a.weight_table, b.weight_table, tolerance);
    require_close(a.scalar_rate, b.scalar_rate, tolerance);
    require_close(a.vector_rate, b.vector_rate, tolerance);
    require_close(a.second_context, b.second_context, tolerance);
    require_close(a.second_vectors, b.second_vectors, tolerance);
    require_close(a.second_table, b.second_table, tolerance);
}

template <class T>
void round(const std::vector<std::string>& sets, double tolerance) {
    const std::string set = sets[static_cast<size_t>(whole(0, static_cast<int>(sets.size()) - 1))];
    hydrapot_messages_options options{};
    options.size = sizeof(options);
    options.channels = 16 * whole(1, 5);
    options.n_radial = whole(1, 21);
    options.precision = 8 * sizeof(T);
    options.knots = whole(0, 1) * whole(100, 300);
    options.threads = 1;
    options.cutoff = real(2.0, 6.0);
    options.instruction_set = "generic";
    const bool vectors = whole(0, 2) > 0;
    const Rows rows = random_rows(options.cutoff);
    const size_t N = static_cast<size_t>(rows.atoms), E = static_cast<size_t>(rows.atoms * rows.degree);
    const size_t F = static_cast<size_t>(options.channels), P = vectors ? 3 : 2;
    Inputs<T> in;
    in.context = normal<T>(N * P * F);
    in.vectors = normal<T>(3 * N * F);
    in.scalar_gradient = normal<T>(N * F);
    in.vector_gradient = normal<T>(3 * N * F);
    in.context_tangent = normal<T>(N * P * F);
    in.vector_tangent = normal<T>(3 * N * F);
    in.filters = normal<double>(P * F * static_cast<size_t>(options.n_radial));
    in.edge_tangent = normal<double>(3 * E);
    const Results<T> expected = evaluate<T>(options, rows, in, vectors);
    double left = dot(in.scalar_gradient, expected.scalar_rate) + dot(in.vector_gradient, expected.vector_rate);
    double right = dot(expected.d_context, in.context_tangent) + dot(expected.d_edges, in.edge_tangent);
    right += dot(expected.d_vectors, in.vector_tangent);
    const double size = std::sqrt(dot(expected.scalar_rate, expected.scalar_rate) * dot(in.scalar_gradient, in.scalar_gradient) +
                                  dot(expected.vector_rate, expected.vector_rate) * dot(in.vector_gradient, in.vector_gradient));
    REQUIRE(std::abs(left - right) <= tolerance * (1.0 + size));
    options.instruction_set = set.c_str();
    options.threads = whole(1, 4);
    options.region = whole(0, 1) ? borrowed : nullptr;
    const Results<T> found = evaluate<T>(options, rows, in, vectors);
    require_same(found, expected, tolerance);
    const Results<T> again = evaluate<T>(options, rows, in, vectors);
    require_same(again, found, 0.0);
}

void refusals() {
    hydrapot_messages_options options{};
    options.size = sizeof(options);
    options.channels = 16;
    options.n_radial = 4;
    options.precision = 64;
    options.threads = 1;
    options.cutoff = 3.0;
    hydrapot_messages* sums = nullptr;
    REQUIRE(hydrapot_messages_create(&options, &sums) == HYDRAPOT_OK);
    hydrapot_messages_arrays empty{};
    REQUIRE(hydrapot_messages_sum(sums, &empty) == HYDRAPOT_ERROR_CONFIGURATION);  // no size
    empty.size = sizeof(empty);
    REQUIRE(hydrapot_messages_sum(sums, nullptr) == HYDRAPOT_ERROR_CONFIGURATION);
    for (int parts = 0; parts < 4; ++parts) {  // without a table, also where there is no atom
        empty.parts = parts;
        REQUIRE(hydrapot_messages_sum(sums, &empty) == HYDRAPOT_ERROR_CONFIGURATION);
        REQUIRE(hydrapot_messages_gradient(sums, &empty) == HYDRAPOT_ERROR_CONFIGURATION);
        REQUIRE(hydrapot_messages_second(sums, &empty) == HYDRAPOT_ERROR_CONFIGURATION);
    }
    empty.n_atoms = 3;
    REQUIRE(hydrapot_messages_sum(sums, &empty) == HYDRAPOT_ERROR_CONFIGURATION);
    REQUIRE(hydrapot_messages_gradient(sums, &empty) == HYDRAPOT_ERROR_CONFIGURATION);
    REQUIRE(hydrapot_messages_second(sums, &empty) == HYDRAPOT_ERROR_CONFIGURATION);
    empty.n_atoms = -1;
    REQUIRE(hydrapot_messages_sum(sums, &empty) == HYDRAPOT_ERROR_CONFIGURATION);
    hydrapot_messages_destroy(sums);
    for (int what = 0; what < 6; ++what) {
        hydrapot_messages_options wrong = options;
        (what == 0 ? wrong.channels : what == 1 ? wrong.n_radial : what == 2 ? wrong.precision : wrong.threads) = what == 3 ? 0 : -1;
        wrong.cutoff = what == 4 ? 0.0 : wrong.cutoff;
        wrong.knots = what == 5 ? 3 : 0;
        REQUIRE(hydrapot_messages_create(&wrong, &sums) == HYDRAPOT_ERROR_CONFIGURATION);
        REQUIRE(sums == nullptr);
    }
}

}  // namespace

int main(int argc, char** argv) {
    generator.seed(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1);
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 20;
    std::vector<std::string> sets;
    std::istringstream words(hydrapot_instruction_sets());
    for (std::string word; words >> word;) {
        sets.push_back(word);
    }
    refusals();
    for (int k = 0; k < rounds; ++k) {
        round<double>(sets, 1e-10);
        round<float>(sets, 2e-4);
    }
    return 0;
}
