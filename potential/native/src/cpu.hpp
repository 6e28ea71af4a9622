// Which instruction sets this processor has.
#pragma once

#include <string>
#include <vector>

#include "plan.hpp"

namespace hydrapot {

// Best first; "generic" is always there.
std::vector<std::string> instruction_sets();

template <class T>
const Kernels<T>& find_kernels(const std::string& instruction_set);

}  // namespace hydrapot
