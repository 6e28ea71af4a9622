// A source prepared for one precision and one instruction set: padded, transposed, packed, splined.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "memory.hpp"
#include "plan.hpp"
#include "source.hpp"

namespace hydrapot {

// Memory of packed weights.
template <class T>
class Store {
  public:
    T* take(size_t n) {
        arrays_.emplace_back(n);
        return arrays_.back().data();
    }
    size_t bytes() const {
        size_t total = 0;
        for (const Array<T>& a : arrays_) {
            total += a.bytes();
        }
        return total;
    }

  private:
    std::vector<Array<T>> arrays_;
};

// A matrix (rows × columns, row-major) in float64, before it is packed.
struct Matrix {
    int rows = 0, columns = 0;
    std::vector<double> data;
    Matrix(int r, int c) : rows(r), columns(c), data(static_cast<size_t>(r) * c, 0.0) {}
    double& operator()(int r, int c) { return data[static_cast<size_t>(r) * columns + c]; }
    double operator()(int r, int c) const { return data[static_cast<size_t>(r) * columns + c]; }
    Matrix transposed() const;
};

// Panels for products A·w, w (k × n).
template <class T>
Dense<T> pack(Store<T>& store, const Matrix& w, const std::vector<double>* bias, const Kernels<T>& kernels);

template <class T>
class Model {
  public:
    Model(std::shared_ptr<const Source> source, int knots, const std::string& instruction_set);

    const Source& source() const { return *source_; }
    const Kernels<T>& kernels() const { return kernels_; }
    const Shape<T>& shape() const { return shape_; }
    const std::vector<Layer<T>>& layers() const { return layers_; }
    const std::vector<Head<T>>& heads() const { return heads_; }

  private:
    void make_shape(int knots);
    void make_layer(int k);
    void make_head(const HeadSource& head);

    std::shared_ptr<const Source> source_;
    const Kernels<T>& kernels_;
    Shape<T> shape_;
    std::vector<Layer<T>> layers_;
    std::vector<Head<T>> heads_;
    Store<T> store_;
    Store<double> lengths_;
    Matrix rows_{0, 0};  // (table rows, R): spline coefficients of the radial functions, or the identity
};

}  // namespace hydrapot
