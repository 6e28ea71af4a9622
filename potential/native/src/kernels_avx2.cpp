// Kernels for AVX2 and FMA.
#define HYDRAPOT_ISA avx2
#define HYDRAPOT_VECTOR_BYTES 32
#define HYDRAPOT_PANEL_VECTORS 2
#define HYDRAPOT_CHUNK_VECTORS 1
#include "kernels/passes.hpp"

namespace hydrapot {

const Kernels<float>& avx2_kernels(float) { return avx2::kernel_table<float>(); }
const Kernels<double>& avx2_kernels(double) { return avx2::kernel_table<double>(); }

}  // namespace hydrapot
