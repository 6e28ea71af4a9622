// The sums of messages_plan.hpp with threads, memory and radial functions of their own.
#pragma once

#include <string>
#include <vector>

#include "memory.hpp"
#include "messages_plan.hpp"
#include "team.hpp"

namespace hydrapot {

// For one number of channels. One call at a time.
template <class T>
class Messages {
  public:
    Messages(int channels, int n_radial, double cutoff, int knots, int threads, Region region,
             const std::string& instruction_set);

    int rows() const { return shape_.rows; }
    Index table_rows() const { return shape_.table_rows; }
    Index record_width() const { return record_head + 2 * shape_.rows; }
    const std::string& instruction_set() const { return instruction_set_; }
    // (K, R): the radial functions are b_n(r) = Σ_m weight_m basis[cell + m][n].
    const std::vector<double>& basis() const { return basis_; }

    void describe(const double* vectors, Index n_atoms, int degree, T* records, int32_t* cells, int32_t* counts);
    void sum(MessageArrays<T> arrays);
    void gradient(MessageArrays<T> arrays, T* d_table);
    void second(MessageArrays<T> arrays, T* d_table);

  private:
    void complete(MessageArrays<T>& arrays);
    template <class Work>
    void over_table(int parts, const Work& work) const;
    template <class Work>
    void over_atoms(const MessageArrays<T>& arrays, const Work& work);
    void with_scratch(const MessageArrays<T>& arrays, T* d_table,
                      void (*kernel)(const MessageArrays<T>&, const MessageScratch<T>&, Index, Index));

    Shape<T> shape_;
    std::vector<double> basis_;
    std::string instruction_set_;
    const MessageKernels<T>* kernels_;
    Team team_;
    Array<T> table_, packed_;  // in the layouts of the kernels
    std::vector<Array<T>> tables_, partials_, geometries_;
    std::vector<Index> borders_;
};

extern template class Messages<float>;
extern template class Messages<double>;

}  // namespace hydrapot
