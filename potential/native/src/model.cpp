#include "model.hpp"

#include <algorithm>
#include <cmath>

#include "cpu.hpp"
#include "spline.hpp"

namespace hydrapot {

namespace {

int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// Columns of a product in the order of the chunked layout: (part, f) → [chunk][part][channel].
int chunked(int part, int f, int parts, int chunk) { return (f / chunk) * parts * chunk + part * chunk + f % chunk; }

// Linear layer (parts_out · F × parts_in · F, row-major in torch) as k × n with every part padded to F.
Matrix padded(const std::vector<double>& weight, int channels, int parts_in, int parts_out, int F) {
    Matrix out(parts_in * F, parts_out * F);
    for (int po = 0; po < parts_out; ++po) {
        for (int g = 0; g < channels; ++g) {
            const double* row = weight.data() + static_cast<size_t>(po * channels + g) * parts_in * channels;
            for (int pi = 0; pi < parts_in; ++pi) {
                for (int f = 0; f < channels; ++f) {
                    out(pi * F + f, po * F + g) = row[pi * channels + f];
                }
            }
        }
    }
    return out;
}

std::vector<double> padded(const std::vector<double>& bias, int channels, int parts, int F) {
    std::vector<double> out(static_cast<size_t>(parts) * F, 0.0);
    for (int p = 0; p < parts; ++p) {
        for (int f = 0; f < channels; ++f) {
            out[p * F + f] = bias[p * channels + f];
        }
    }
    return out;
}

}  // namespace

Matrix Matrix::transposed() const {
    Matrix out(columns, rows);
    for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
            out(c, r) = (*this)(r, c);
        }
    }
    return out;
}

template <class T>
Dense<T> pack(Store<T>& store, const Matrix& w, const std::vector<double>* bias, const Kernels<T>& kernels) {
    Dense<T> out;
    out.k = w.rows;
    out.n = w.columns;
    T* data = store.take(static_cast<size_t>(w.rows) * w.columns);
    out.packed = data;
    for (int first = 0; first < w.columns; first += kernels.panel) {
        int width = std::min(kernels.panel, w.columns - first);
        for (int k = 0; k < w.rows; ++k) {
            for (int c = 0; c < width; ++c) {
                *data++ = static_cast<T>(w(k, first + c));
            }
        }
    }
    if (bias) {
        T* b = store.take(bias->size());
        for (size_t c = 0; c < bias->size(); ++c) {
            b[c] = static_cast<T>((*bias)[c]);
        }
        out.bias = b;
    }
    return out;
}

template <class T>
Model<T>::Model(std::shared_ptr<const Source> source, int knots, const std::string& instruction_set)
    : source_(std::move(source)), kernels_(find_kernels<T>(instruction_set)) {
    source_->check();
    make_shape(knots);
    for (int k = 0; k < source_->architecture.layers; ++k) {
        make_layer(k);
    }
    for (const HeadSource& head : source_->heads) {
        make_head(head);
    }
}

template <class T>
void Model<T>::make_shape(int knots) {
    const Architecture& a = source_->architecture;
    shape_.F = round_up(a.channels, kernels_.chunk);
    shape_.R = a.n_radial;
    shape_.Rp = round_up(a.n_radial, kernels_.lanes);
    shape_.layers = a.layers;
    shape_.chunk = kernels_.chunk;
    shape_.cutoff = a.cutoff;
    shape_.spline = knots > 0;
    if (shape_.spline) {
        shape_.rows = spline_rows;
        shape_.cells = knots;
        shape_.inverse_step = knots / a.cutoff;
        shape_.table_rows = knots + spline_rows - 1;
        rows_ = Matrix(knots + spline_rows - 1, a.n_radial);
        rows_.data = spline_coefficients(a.cutoff, a.n_radial, knots);
        T* basis = store_.take(static_cast<size_t>(knots + spline_rows - 1) * shape_.Rp);
        for (int row = 0; row < rows_.rows; ++row) {
            for (int n = 0; n < a.n_radial; ++n) {
                basis[static_cast<size_t>(row) * shape_.Rp + n] = static_cast<T>(rows_(row, n));
            }
        }
        shape_.basis = basis;
    } else {
        shape_.rows = a.n_radial;
        shape_.table_rows = a.n_radial;
        rows_ = Matrix(a.n_radial, a.n_radial);
        for (int n = 0; n < a.n_radial; ++n) {
            rows_(n, n) = 1.0;
        }
    }
    shape_.repulsion = a.repulsion;
    double* range = lengths_.take(n_numbers);
    double* power = lengths_.take(n_numbers);
    for (int z = 0; z < n_numbers; ++z) {
        range[z] = 0.85 * covalent_radius(z);
        power[z] = std::pow(static_cast<double>(z), 0.23) / 0.46850;
    }
    shape_.zbl_range = range;
    shape_.zbl_power = power;
}

template <class T>
void Model<T>::make_layer(int k) {
    const Architecture& a = source_->architecture;
    const int F = shape_.F, f = a.channels, C = kernels_.chunk;
    const std::string message = "encoder.messages." + std::to_string(k) + ".";
    const std::string update = "encoder.updates." + std::to_string(k) + ".";
    const bool first = k == 0, last = k == a.layers - 1;
    Layer<T> layer;
    const auto both = [&](const Matrix& w, const std::vector<double>* bias, Dense<T>& plain, Dense<T>& transposed) {
        plain = pack(store_, w, bias, kernels_);
        transposed = pack<T>(store_, w.transposed(), nullptr, kernels_);
    };
    if (!first) {
        const std::vector<double> hidden_bias = padded(source_->weights(message + "hidden.bias"), f, 1, F);
        both(padded(source_->weights(message + "hidden.weight"), f, 1, 1, F), &hidden_bias, layer.phi_hidden,
             layer.phi_hidden_t);
        const Matrix plain = padded(source_->weights(message + "context.weight"), f, 1, 3, F);
        const std::vector<double> plain_bias = padded(source_->weights(message + "context.bias"), f, 3, F);
        Matrix context(F, 3 * F);
        std::vector<double> context_bias(3 * F);
        for (int part = 0; part < 3; ++part) {
            for (int g = 0; g < F; ++g) {
                const int column = chunked(part, g, 3, C);
                context_bias[column] = plain_bias[part * F + g];
                for (int in = 0; in < F; ++in) {
                    context(in, column) = plain(in, part * F + g);
                }
            }
        }
        both(context, &context_bias, layer.phi_context, layer.phi_context_t);
        // Filters of every table row, the scale of the messages included.
        const std::vector<double>& weight = source_->weights(message + "filters.weight");
        const double scale = 1.0 / std::sqrt(a.neighbor_scale);
        T* table = store_.take(static_cast<size_t>(shape_.table_rows) * 3 * F);
        for (int part = 0; part < 3; ++part) {
            for (int g = 0; g < f; ++g) {
                const double* w = weight.data() + static_cast<size_t>(part * f + g) * a.n_radial;
                for (int row = 0; row < rows_.rows; ++row) {
                    double value = 0;
                    for (int n = 0; n < a.n_radial; ++n) {
                        value += w[n] * rows_(row, n);
                    }
                    table[((static_cast<size_t>(g / C) * rows_.rows + row) * 3 + part) * C + g % C] =
                        static_cast<T>(scale * value);
                }
            }
        }
        layer.filters = table;
        both(padded(source_->weights(update + "mix.weight"), f, 1, 2, F), nullptr, layer.mix, layer.mix_t);
    }
    const Matrix hidden = padded(source_->weights(update + "hidden.weight"), f, 2, 1, F);
    if (first) {
        Matrix norms(F, F);
        for (int in = 0; in < F; ++in) {
            for (int out = 0; out < F; ++out) {
                norms(in, out) = hidden(F + in, out);
            }
        }
        both(norms, nullptr, layer.hidden, layer.hidden_t);
    } else {
        const std::vector<double> bias = padded(source_->weights(update + "hidden.bias"), f, 1, F);
        both(hidden, &bias, layer.hidden, layer.hidden_t);
    }
    const int parts = last ? 2 : 3;
    const Matrix gates = padded(source_->weights(update + "gates.weight"), f, 1, parts, F);
    const std::vector<double> gates_bias = padded(source_->weights(update + "gates.bias"), f, parts, F);
    both(gates, &gates_bias, layer.gates, layer.gates_t);
    if (!last) {
        Matrix late(F, 2 * F);
        for (int in = 0; in < F; ++in) {
            for (int out = 0; out < 2 * F; ++out) {
                late(in, out) = gates(in, F + out);
            }
        }
        const std::vector<double> late_bias(gates_bias.begin() + F, gates_bias.end());
        layer.late_gates = pack(store_, late, &late_bias, kernels_);
    }
    layers_.push_back(layer);
}

template <class T>
void Model<T>::make_head(const HeadSource& head) {
    const int f = source_->architecture.channels, h = source_->architecture.head_hidden;
    const int H = round_up(h, kernels_.lanes);
    const std::string module = Source::head_module(head.name);
    const std::vector<double>& weight = source_->weights(module + "hidden.weight");
    const std::vector<double>& output = source_->weights(module + "output.weight");
    Matrix hidden(shape_.F, H);
    std::vector<double> bias(source_->weights(module + "hidden.bias"));
    bias.resize(H, 0.0);
    T* out = store_.take(H);
    for (int k = 0; k < h; ++k) {
        out[k] = static_cast<T>(output[k]);
        for (int in = 0; in < f; ++in) {
            hidden(in, k) = weight[static_cast<size_t>(k) * f + in];
        }
    }
    Head<T> result;
    result.hidden = pack(store_, hidden, &bias, kernels_);
    result.hidden_t = pack<T>(store_, hidden.transposed(), nullptr, kernels_);
    result.output = out;
    result.scale = head.scale;
    heads_.push_back(result);
}

template class Model<float>;
template class Model<double>;
template Dense<float> pack(Store<float>&, const Matrix&, const std::vector<double>*, const Kernels<float>&);
template Dense<double> pack(Store<double>&, const Matrix&, const std::vector<double>*, const Kernels<double>&);

}  // namespace hydrapot
