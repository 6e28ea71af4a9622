// Kernels for any processor: 128-bit vectors (SSE2, NEON), or whatever the compiler makes of them.
#define HYDRAPOT_ISA generic
#define HYDRAPOT_VECTOR_BYTES 16
#define HYDRAPOT_PANEL_VECTORS 2
#define HYDRAPOT_CHUNK_VECTORS 1
#include "kernels/messages.hpp"
#include "kernels/passes.hpp"

namespace hydrapot {

const Kernels<float>& generic_kernels(float) { return generic::kernel_table<float>(); }
const Kernels<double>& generic_kernels(double) { return generic::kernel_table<double>(); }
const MessageKernels<float>& generic_messages(float) { return generic::message_table<float>(); }
const MessageKernels<double>& generic_messages(double) { return generic::message_table<double>(); }

}  // namespace hydrapot
