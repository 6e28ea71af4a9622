#include "cpu.hpp"

#include "error.hpp"

namespace hydrapot {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> sets;
#if defined(HYDRAPOT_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
        sets.push_back("avx512");
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        sets.push_back("avx2");
    }
#endif
    sets.push_back("generic");
    return sets;
}

template <class T>
const Kernels<T>& find_kernels(const std::string& wanted) {
    for (const std::string& set : instruction_sets()) {
        if (!wanted.empty() && set != wanted) {
            continue;
        }
#if defined(HYDRAPOT_X86)
        if (set == "avx512") {
            return avx512_kernels(T{});
        }
        if (set == "avx2") {
            return avx2_kernels(T{});
        }
#endif
        return generic_kernels(T{});
    }
    throw Error(HYDRAPOT_ERROR_CONFIGURATION,
                "instruction set '" + wanted + "' is unknown, not built, or not supported by this processor");
}

template const Kernels<float>& find_kernels<float>(const std::string&);
template const Kernels<double>& find_kernels<double>(const std::string&);

}  // namespace hydrapot
