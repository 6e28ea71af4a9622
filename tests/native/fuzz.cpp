// Random models and structures through the C interface of the native engine, to be built with sanitizers.
//
// Sizes, cells, kinds, heads, precisions, instruction sets, padding of rows, ghosts and threads are drawn at random; results
// of each are compared with another way to the same numbers, so that this is a test without sanitizers, too. Usage:
// fuzz SEED ROUNDS [CHECKPOINT]: with a checkpoint, damaged copies of it are read as well.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "hydrapot.h"

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

struct Shape {
    int channels, layers, n_radial, hidden, heads;
};

hydrapot_source* make_source(const Shape& s, double cutoff) {
    hydrapot_architecture a{};
    a.size = sizeof(a);
    a.channels = s.channels;
    a.layers = s.layers;
    a.n_radial = s.n_radial;
    a.head_hidden = s.hidden;
    a.charge_spin = 1;
    a.repulsion = 1;
    a.cutoff = cutoff;
    a.neighbor_scale = 20;
    hydrapot_source* source = nullptr;
    REQUIRE(hydrapot_source_create(&a, &source) == HYDRAPOT_OK);
    const auto tensor = [&](const std::string& name, std::vector<int64_t> shape) {
        size_t n = 1;
        for (int64_t k : shape) {
            n *= static_cast<size_t>(k);
        }
        std::vector<double> data(n);
        std::normal_distribution<double> normal(0.0, 1.0 / std::sqrt(static_cast<double>(shape.back())));
        for (double& x : data) {
            x = normal(generator);
        }
        REQUIRE(hydrapot_source_tensor(source, name.c_str(), shape.data(), static_cast<int32_t>(shape.size()), data.data()) ==
                HYDRAPOT_OK);
    };
    const int64_t F = s.channels;
    tensor("encoder.embedding.weight", {119, F});
    tensor("conditioning.charge", {21, F});
    tensor("conditioning.spin", {13, F});
    for (int k = 0; k < s.layers; ++k) {
        const std::string message = "encoder.messages." + std::to_string(k) + ".";
        const std::string update = "encoder.updates." + std::to_string(k) + ".";
        const int64_t parts = k == 0 ? 2 : 3, gates = k + 1 == s.layers ? 2 : 3;
        tensor(message + "hidden.weight", {F, F});
        tensor(message + "hidden.bias", {F});
        tensor(message + "context.weight", {parts * F, F});
        tensor(message + "context.bias", {parts * F});
        tensor(message + "filters.weight", {parts * F, s.n_radial});
        tensor(update + "mix.weight", {2 * F, F});
        tensor(update + "hidden.weight", {F, 2 * F});
        tensor(update + "hidden.bias", {F});
        tensor(update + "gates.weight", {gates * F, F});
        tensor(update + "gates.bias", {gates * F});
    }
    for (int h = 0; h < s.heads; ++h) {
        const std::string name = "head" + std::to_string(h);
        const std::string module = "energy_heads." + name + ".";
        tensor(module + "hidden.weight", {s.hidden, F});
        tensor(module + "hidden.bias", {s.hidden});
        tensor(module + "output.weight", {1, s.hidden});
        std::vector<double> references(119, -1.0);
        std::vector<uint8_t> known(119, 1);
        const int32_t charge_spin[] = {-1, 2, 2, 0};
        REQUIRE(hydrapot_source_head(source, name.c_str(), 1.5, references.data(), known.data(), charge_spin, 2) ==
                HYDRAPOT_OK);
    }
    return source;
}

struct System {
    std::vector<int32_t> numbers, charge, spin;
    std::vector<int64_t> structures{0}, offsets{0};
    std::vector<int32_t> senders;
    std::vector<double> vectors;
};

// Appends a random structure: any cell, any periodicity, all pairs by brute force.
void add_structure(System& system, double cutoff) {
    const int n = whole(0, 9) == 0 ? 0 : whole(1, 14);
    const bool periodic = whole(0, 1) != 0;
    const double length = real(2.5, 7.0);
    double cell[3][3] = {};
    for (int a = 0; a < 3; ++a) {
        for (int b = 0; b < 3; ++b) {
            cell[a][b] = a == b ? length : b < a ? real(-0.4, 0.4) * length : 0.0;
        }
    }
    const int64_t first = system.structures.back();
    std::vector<std::array<double, 3>> x;
    while (static_cast<int>(x.size()) < n) {
        std::array<double, 3> trial{};
        for (double& c : trial) {
            c = real(0, periodic ? length : 2 * length);
        }
        x.push_back(trial);
        system.numbers.push_back(whole(0, 2) ? whole(1, 8) : whole(1, 118));
    }
    const int images = periodic ? 4 : 0;
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
            for (int p = -images; p <= images; ++p) {
                for (int q = -images; q <= images; ++q) {
                    for (int r = -images; r <= images; ++r) {
                        double d[3], square = 0;
                        for (int a = 0; a < 3; ++a) {
                            d[a] = x[j][a] - x[i][a] + p * cell[0][a] + q * cell[1][a] + r * cell[2][a];
                            square += d[a] * d[a];
                        }
                        // Close pairs are left out on both sides: energies of 1e5 eV would hide everything else.
                        if (square > 0.49 && square < 1.1 * cutoff * cutoff) {
                            system.senders.push_back(static_cast<int32_t>(first + j));
                            system.vectors.insert(system.vectors.end(), d, d + 3);
                        }
                    }
                }
            }
        }
        system.offsets.push_back(static_cast<int64_t>(system.senders.size()));
    }
    system.structures.push_back(first + n);
    const int state = whole(0, 2);
    system.charge.push_back(state == 1 ? -1 : state == 2 ? 2 : 0);
    system.spin.push_back(state == 1 ? 2 : 0);
}

struct Result {
    std::vector<double> energy, energies, forces, virial, virials, features;
};

struct Ghosts {
    std::vector<int32_t> owner;
};

extern "C" int copy_ghosts(void* context, int32_t, int32_t, void* rows, int64_t n_local, int64_t n_total, int32_t width,
                           int32_t item) {
    const Ghosts& ghosts = *static_cast<const Ghosts*>(context);
    char* bytes = static_cast<char*>(rows);
    const int64_t size = int64_t(width) * item;
    for (int64_t k = n_local; k < n_total; ++k) {
        std::copy_n(bytes + ghosts.owner[static_cast<size_t>(k - n_local)] * size, size, bytes + k * size);
    }
    return 0;
}

Result evaluate(const hydrapot_model* model, hydrapot_workspace* workspace, const System& s, const std::vector<double>& weights,
                Ghosts* ghosts = nullptr, int64_t n_total = -1) {
    const size_t local = s.offsets.size() - 1, total = n_total < 0 ? local : static_cast<size_t>(n_total);
    const size_t structures = s.structures.size() - 1;
    Result out;
    out.energy.resize(structures);
    out.energies.resize(local);
    out.forces.resize(3 * total);
    out.virial.resize(9 * structures);
    out.virials.resize(9 * total);
    hydrapot_input in{};
    in.size = sizeof(in);
    in.n_local = static_cast<int64_t>(local);
    in.n_total = static_cast<int64_t>(total);
    in.n_structures = static_cast<int64_t>(structures);
    in.numbers = s.numbers.data();
    in.structure_offsets = s.structures.data();
    in.charge = s.charge.data();
    in.spin = s.spin.data();
    in.head_weights = weights.data();
    in.offsets = s.offsets.data();
    in.senders = s.senders.data();
    in.vectors = s.vectors.data();
    in.check = ghosts ? 1 : 3;
    if (ghosts) {
        in.exchange = copy_ghosts;
        in.exchange_context = ghosts;
    }
    hydrapot_output reply{};
    reply.size = sizeof(reply);
    reply.energy = out.energy.data();
    reply.energies = out.energies.data();
    reply.forces = out.forces.data();
    reply.virial = out.virial.data();
    reply.virials = out.virials.data();
    REQUIRE(hydrapot_evaluate(model, workspace, &in, &reply) == HYDRAPOT_OK);
    return out;
}

void require_close(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
    REQUIRE(a.size() == b.size());
    double scale = 1.0;
    for (double x : b) {
        scale = std::max(scale, std::abs(x));
    }
    for (size_t k = 0; k < a.size(); ++k) {
        REQUIRE(std::abs(a[k] - b[k]) <= tolerance * scale);
    }
}

hydrapot_model* make_model(const hydrapot_source* source, int precision, int knots, const std::string& set) {
    hydrapot_options options{};
    options.size = sizeof(options);
    options.precision = precision;
    options.knots = knots;
    options.instruction_set = set.c_str();
    hydrapot_model* model = nullptr;
    REQUIRE(hydrapot_model_create(source, &options, &model) == HYDRAPOT_OK);
    return model;
}

hydrapot_workspace* make_workspace(const hydrapot_model* model, int threads) {
    hydrapot_workspace* workspace = nullptr;
    REQUIRE(hydrapot_workspace_create(model, threads, &workspace) == HYDRAPOT_OK);
    return workspace;
}

// Some senders become ghosts.
Result with_ghosts(const hydrapot_model* model, hydrapot_workspace* workspace, System s, const std::vector<double>& weights) {
    Ghosts ghosts;
    const int32_t local = static_cast<int32_t>(s.numbers.size());
    for (int32_t& sender : s.senders) {
        if (whole(0, 3) == 0) {
            ghosts.owner.push_back(sender);
            s.numbers.push_back(s.numbers[static_cast<size_t>(sender)]);
            sender = local + static_cast<int32_t>(ghosts.owner.size()) - 1;
        }
    }
    Result out = evaluate(model, workspace, s, weights, &ghosts, local + static_cast<int64_t>(ghosts.owner.size()));
    for (size_t k = 0; k < ghosts.owner.size(); ++k) {
        for (size_t a = 0; a < 3; ++a) {
            out.forces[3 * static_cast<size_t>(ghosts.owner[k]) + a] += out.forces[3 * (static_cast<size_t>(local) + k) + a];
        }
    }
    out.forces.resize(3 * static_cast<size_t>(local));
    return out;
}

void round(const std::vector<std::string>& sets) {
    const double cutoff = real(2.0, 4.5);
    const Shape shape{whole(1, 3) * whole(1, 24), whole(1, 4), whole(1, 24), whole(1, 40), whole(1, 3)};
    hydrapot_source* source = make_source(shape, cutoff);
    std::vector<double> weights(static_cast<size_t>(shape.heads));
    for (double& w : weights) {
        w = real(0.1, 1.0);
    }
    hydrapot_model* reference_model = make_model(source, 64, 0, "generic");
    hydrapot_workspace* reference_workspace = make_workspace(reference_model, 1);
    const std::string set = sets[static_cast<size_t>(whole(0, static_cast<int>(sets.size()) - 1))];
    hydrapot_model* exact = make_model(source, 64, 0, set);
    hydrapot_model* coarse = make_model(source, 64, whole(400, 600), set);
    hydrapot_model* single = make_model(source, 32, whole(0, 1) * 256, set);
    hydrapot_source_destroy(source);
    hydrapot_workspace* w_exact = make_workspace(exact, whole(1, 4));
    hydrapot_workspace* w_coarse = make_workspace(coarse, whole(1, 3));
    hydrapot_workspace* w_single = make_workspace(single, whole(1, 3));
    for (int repetition = 0; repetition < 3; ++repetition) {
        System system;
        const int structures = whole(1, 9);
        for (int g = 0; g < structures; ++g) {
            add_structure(system, cutoff);
        }
        const Result expected = evaluate(reference_model, reference_workspace, system, weights);
        const Result same = evaluate(exact, w_exact, system, weights);
        require_close(same.energies, expected.energies, 1e-10);
        require_close(same.forces, expected.forces, 1e-9);
        require_close(same.virials, expected.virials, 1e-9);
        require_close(evaluate(coarse, w_coarse, system, weights).forces, expected.forces, 1e-4);
        require_close(evaluate(single, w_single, system, weights).forces, expected.forces, 2e-3);

        System alone;
        add_structure(alone, cutoff);
        const Result whole_list = evaluate(reference_model, reference_workspace, alone, weights);
        const Result split = with_ghosts(exact, w_exact, alone, weights);
        require_close(split.energies, whole_list.energies, 1e-10);
        require_close(split.forces, whole_list.forces, 1e-9);
        require_close(split.virial, whole_list.virial, 1e-9);

        // Two callers, each with threads of its own, on one model.
        hydrapot_workspace* other = make_workspace(exact, 2);
        Result a, b;
        std::thread first([&] { a = evaluate(exact, w_exact, system, weights); });
        std::thread second([&] { b = evaluate(exact, other, system, weights); });
        first.join();
        second.join();
        require_close(a.forces, expected.forces, 1e-9);
        require_close(b.forces, expected.forces, 1e-9);
        hydrapot_workspace_destroy(other);
    }
    for (hydrapot_workspace* w : {reference_workspace, w_exact, w_coarse, w_single}) {
        hydrapot_workspace_destroy(w);
    }
    for (hydrapot_model* m : {reference_model, exact, coarse, single}) {
        hydrapot_model_destroy(m);
    }
}

void damage(const std::string& path, int rounds) {
    std::ifstream file(path, std::ios::binary);
    const std::string whole_file((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    REQUIRE(whole_file.size() > 100);
    const std::string copy = path + ".damaged";
    for (int k = 0; k < rounds; ++k) {
        std::string data = whole_file;
        if (whole(0, 3) == 0) {
            data.resize(static_cast<size_t>(whole(0, static_cast<int>(data.size()))));
        }
        for (int n = whole(1, 6); n > 0 && !data.empty(); --n) {
            // Mostly in the header, where there is something to misread.
            const int end = static_cast<int>(std::min<size_t>(data.size(), whole(0, 4) ? 9000 : data.size())) - 1;
            data[static_cast<size_t>(whole(0, end))] = static_cast<char>(whole(0, 255));
        }
        std::ofstream(copy, std::ios::binary) << data;
        hydrapot_source* source = nullptr;
        if (hydrapot_read(copy.c_str(), &source) == HYDRAPOT_OK) {
            hydrapot_source_destroy(source);
        } else {
            REQUIRE(source == nullptr && hydrapot_last_error()[0] != '\0');
        }
    }
    std::remove(copy.c_str());
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        return 2;
    }
    generator.seed(std::strtoull(argv[1], nullptr, 10));
    std::vector<std::string> sets(1);
    for (const char* c = hydrapot_instruction_sets(); *c; ++c) {
        if (*c == ' ') {
            sets.emplace_back();
        } else {
            sets.back() += *c;
        }
    }
    const int rounds = std::atoi(argv[2]);
    for (int k = 0; k < rounds; ++k) {
        round(sets);
    }
    if (argc > 3) {
        damage(argv[3], 10 * rounds);
    }
    std::printf("%d rounds\n", rounds);
    return 0;
}
