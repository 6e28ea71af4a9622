#include "kinds.hpp"

#include <cmath>

namespace hydrapot {

namespace {

// out = weight (rows × n) · in + bias
std::vector<double> linear(const std::vector<double>& weight, const std::vector<double>& in,
                           const std::vector<double>* bias) {
    const size_t n = in.size(), rows = weight.size() / n;
    std::vector<double> out(rows, 0.0);
    for (size_t r = 0; r < rows; ++r) {
        double sum = bias ? (*bias)[r] : 0.0;
        for (size_t k = 0; k < n; ++k) {
            sum += weight[r * n + k] * in[k];
        }
        out[r] = sum;
    }
    return out;
}

}  // namespace

template <class T>
std::unique_ptr<KindTable<T>> make_kind(const Model<T>& model, const KindKey& key) {
    const Source& source = model.source();
    const Architecture& a = source.architecture;
    const Kernels<T>& kernels = model.kernels();
    const int f = a.channels, F = model.shape().F, R = a.n_radial, Rp = model.shape().Rp;
    const auto [number, charge, spin] = key;

    std::vector<double> s(f);
    for (int k = 0; k < f; ++k) {
        s[k] = source.weights("encoder.embedding.weight")[static_cast<size_t>(number) * f + k];
        if (a.charge_spin && charge != 0) {
            s[k] += source.weights("conditioning.charge")[static_cast<size_t>(charge + max_charge) * f + k];
        }
        if (a.charge_spin && spin != 0) {
            s[k] += source.weights("conditioning.spin")[static_cast<size_t>(spin) * f + k];
        }
    }
    const std::string message = "encoder.messages.0.", update = "encoder.updates.0.";
    std::vector<double> hidden =
        linear(source.weights(message + "hidden.weight"), s, &source.weights(message + "hidden.bias"));
    for (double& x : hidden) {
        x /= 1.0 + std::exp(-x);
    }
    const std::vector<double> context =
        linear(source.weights(message + "context.weight"), hidden, &source.weights(message + "context.bias"));

    // diag(c) W for scalars and vectors, (R × F) each, then what follows linearly.
    const std::vector<double>& filters = source.weights(message + "filters.weight");
    const std::vector<double>& mix = source.weights(update + "mix.weight");
    const std::vector<double>& half = source.weights(update + "hidden.weight");
    const double scale = 1.0 / std::sqrt(a.neighbor_scale);
    Matrix scalar(R, 2 * F), vector(R, 3 * F);
    for (int n = 0; n < R; ++n) {
        std::vector<double> ws(f), wv(f);
        for (int k = 0; k < f; ++k) {
            ws[k] = scale * context[k] * filters[static_cast<size_t>(k) * R + n];
            wv[k] = scale * context[f + k] * filters[static_cast<size_t>(f + k) * R + n];
            scalar(n, k) = ws[k];
            vector(n, k) = wv[k];
        }
        const std::vector<double> mixed = linear(mix, wv, nullptr);
        for (int k = 0; k < f; ++k) {
            double sum = 0;
            for (int m = 0; m < f; ++m) {
                sum += half[static_cast<size_t>(k) * 2 * f + m] * ws[m];
            }
            scalar(n, F + k) = sum;
            vector(n, F + k) = mixed[k];
            vector(n, 2 * F + k) = mixed[f + k];
        }
    }
    const auto transposed = [&](const Matrix& w) {  // with radial functions padded to whole vectors
        Matrix out(w.columns, Rp);
        for (int r = 0; r < w.rows; ++r) {
            for (int c = 0; c < w.columns; ++c) {
                out(c, r) = w(r, c);
            }
        }
        return out;
    };
    auto table = std::make_unique<KindTable<T>>();
    table->kind.scalar = pack<T>(table->store, scalar, nullptr, kernels);
    table->kind.scalar_t = pack<T>(table->store, transposed(scalar), nullptr, kernels);
    table->kind.vector = pack<T>(table->store, vector, nullptr, kernels);
    table->kind.vector_t = pack<T>(table->store, transposed(vector), nullptr, kernels);
    T* base = table->store.take(2 * F);
    const std::vector<double>& bias = source.weights(update + "hidden.bias");
    for (int k = 0; k < f; ++k) {
        double sum = bias[k];
        for (int m = 0; m < f; ++m) {
            sum += half[static_cast<size_t>(k) * 2 * f + m] * s[m];
        }
        base[k] = static_cast<T>(s[k]);
        base[F + k] = static_cast<T>(sum);
    }
    table->kind.base = base;
    table->isolated.assign(source.heads.size(), 0.0);
    table->kind.isolated = table->isolated.data();
    return table;
}

template std::unique_ptr<KindTable<float>> make_kind(const Model<float>&, const KindKey&);
template std::unique_ptr<KindTable<double>> make_kind(const Model<double>&, const KindKey&);

}  // namespace hydrapot
