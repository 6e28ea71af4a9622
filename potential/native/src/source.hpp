// Weights and heads as a checkpoint has them, in float64: what models are made from.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace hydrapot {

constexpr int n_numbers = 119;  // atomic numbers 0 … 118; 0 is not used
constexpr int max_charge = 10;  // potential/conditioning.py
constexpr int max_spin = 12;

struct Architecture {
    int channels = 0, layers = 0, n_radial = 0, head_hidden = 0;
    bool charge_spin = false, repulsion = false;
    double cutoff = 0, neighbor_scale = 0;
};

struct Tensor {
    std::vector<int64_t> shape;
    std::vector<double> data;
};

struct HeadSource {
    std::string name;
    double scale = 1.0;
    std::array<double, n_numbers> references{};
    std::array<bool, n_numbers> known{};
    std::vector<std::pair<int, int>> charge_spin;  // spin 0: not stated
};

class Source {
  public:
    explicit Source(const Architecture& architecture);

    Architecture architecture;
    std::map<std::string, Tensor> tensors;
    std::vector<HeadSource> heads;

    // Throws unless there is at least one head, and every tensor of the architecture in its shape and no other.
    void check() const;
    const std::vector<double>& weights(const std::string& name) const;
    static std::string head_module(const std::string& head);
};

const char* chemical_symbol(int number);
int atomic_number(const std::string& symbol);  // 0 if there is no such element
double covalent_radius(int number);            // Å, that of potential/repulsion.py

}  // namespace hydrapot
