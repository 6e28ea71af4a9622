// Kernels for AVX2 and FMA.
#define HYDRAPOT_ISA avx2
#define HYDRAPOT_VECTOR_BYTES 32
#define HYDRAPOT_PANEL_VECTORS 2
#define HYDRAPOT_CHUNK_VECTORS 1
#include "kernels/messages.hpp"
#include "kernels/passes.hpp"

namespace hydrapot {

const Kernels<float>& avx2_kernels(float) { return avx2::kernel_table<float>(); }
const Kernels<double>& avx2_kernels(double) { return avx2::kernel_table<double>(); }
const MessageKernels<float>& avx2_messages(float) { return avx2::message_table<float>(); }
const MessageKernels<double>& avx2_messages(double) { return avx2::message_table<double>(); }

}  // namespace hydrapot
