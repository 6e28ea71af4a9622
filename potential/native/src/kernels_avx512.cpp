// Kernels for AVX-512 (F, BW, DQ, VL).
#define HYDRAPOT_ISA avx512
#define HYDRAPOT_VECTOR_BYTES 64
#define HYDRAPOT_PANEL_VECTORS 4
#define HYDRAPOT_CHUNK_VECTORS 2
#include "kernels/messages.hpp"
#include "kernels/passes.hpp"

namespace hydrapot {

const Kernels<float>& avx512_kernels(float) { return avx512::kernel_table<float>(); }
const Kernels<double>& avx512_kernels(double) { return avx512::kernel_table<double>(); }
const MessageKernels<float>& avx512_messages(float) { return avx512::message_table<float>(); }
const MessageKernels<double>& avx512_messages(double) { return avx512::message_table<double>(); }

}  // namespace hydrapot
