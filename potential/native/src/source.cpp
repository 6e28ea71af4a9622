#include "source.hpp"

#include <cmath>

#include "error.hpp"

namespace hydrapot {

namespace {

std::string text(const std::vector<int64_t>& shape) {
    std::string out = "(";
    for (size_t k = 0; k < shape.size(); ++k) {
        out += (k ? ", " : "") + std::to_string(shape[k]);
    }
    return out + (shape.size() == 1 ? ",)" : ")");
}

std::map<std::string, std::vector<int64_t>> expected(const Architecture& a, const std::vector<HeadSource>& heads) {
    const int64_t F = a.channels, R = a.n_radial, H = a.head_hidden;
    std::map<std::string, std::vector<int64_t>> shapes;
    shapes["encoder.embedding.weight"] = {n_numbers, F};
    if (a.charge_spin) {
        shapes["conditioning.charge"] = {2 * max_charge + 1, F};
        shapes["conditioning.spin"] = {max_spin + 1, F};
    }
    for (int k = 0; k < a.layers; ++k) {
        const int64_t parts = k == 0 ? 2 : 3, gates = k == a.layers - 1 ? 2 : 3;
        const std::string message = "encoder.messages." + std::to_string(k) + ".";
        const std::string update = "encoder.updates." + std::to_string(k) + ".";
        shapes[message + "hidden.weight"] = {F, F};
        shapes[message + "hidden.bias"] = {F};
        shapes[message + "context.weight"] = {parts * F, F};
        shapes[message + "context.bias"] = {parts * F};
        shapes[message + "filters.weight"] = {parts * F, R};
        shapes[update + "mix.weight"] = {2 * F, F};
        shapes[update + "hidden.weight"] = {F, 2 * F};
        shapes[update + "hidden.bias"] = {F};
        shapes[update + "gates.weight"] = {gates * F, F};
        shapes[update + "gates.bias"] = {gates * F};
    }
    for (const HeadSource& head : heads) {
        const std::string module = Source::head_module(head.name);
        shapes[module + "hidden.weight"] = {H, F};
        shapes[module + "hidden.bias"] = {H};
        shapes[module + "output.weight"] = {1, H};
    }
    return shapes;
}

}  // namespace

Source::Source(const Architecture& a) : architecture(a) {
    const bool sizes = a.channels >= 1 && a.layers >= 1 && a.n_radial >= 1 && a.head_hidden >= 1 &&
                       a.channels <= 1 << 16 && a.layers <= 1 << 10 && a.n_radial <= 1 << 12 && a.head_hidden <= 1 << 16;
    const bool lengths = std::isfinite(a.cutoff) && a.cutoff > 0 && std::isfinite(a.neighbor_scale) && a.neighbor_scale > 0;
    if (!sizes || !lengths) {
        throw Error(HYDRAPOT_ERROR_CHECKPOINT, "the architecture has a size or a length that is not positive, or absurd");
    }
}

// Names of submodules may not hold dots (potential/model.py).
std::string Source::head_module(const std::string& head) {
    std::string name;
    for (char c : head) {
        name += c == '.' ? std::string("\xC2\xB7") : std::string(1, c);
    }
    return "energy_heads." + name + ".";
}

void Source::check() const {
    if (heads.empty()) {
        throw Error(HYDRAPOT_ERROR_CHECKPOINT, "the model has no head");
    }
    const auto shapes = expected(architecture, heads);
    for (const auto& item : shapes) {
        const auto found = tensors.find(item.first);
        if (found == tensors.end()) {
            throw Error(HYDRAPOT_ERROR_CHECKPOINT, "missing tensor '" + item.first + "'");
        }
        if (found->second.shape != item.second) {
            throw Error(HYDRAPOT_ERROR_CHECKPOINT, "tensor '" + item.first + "' has shape " +
                                                       text(found->second.shape) + ", not " + text(item.second));
        }
    }
    for (const auto& item : tensors) {
        if (shapes.find(item.first) == shapes.end()) {
            throw Error(HYDRAPOT_ERROR_CHECKPOINT, "unexpected tensor '" + item.first + "'");
        }
    }
}

const std::vector<double>& Source::weights(const std::string& name) const { return tensors.at(name).data; }

}  // namespace hydrapot
