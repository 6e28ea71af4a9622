// Operations per second that one core can do in float32: chains of independent multiply-adds in registers.
#include <chrono>
#include <cstdio>

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
typedef float Vector __attribute__((vector_size(4 * lanes)));

int main()
{
    constexpr int chains = 10;
    constexpr long turns = 20000000;
    Vector s0{}, s1{}, s2{}, s3{}, s4{}, s5{}, s6{}, s7{}, s8{}, s9{};
    Vector a = Vector{} + 0.999f, b = Vector{} + 0.001f;
    double best = 0.0;
    for (int repeat = 0; repeat < 5; ++repeat) {
        const auto start = std::chrono::steady_clock::now();
        for (long t = 0; t < turns; ++t) {
            s0 = s0 * a + b, s1 = s1 * a + b, s2 = s2 * a + b, s3 = s3 * a + b, s4 = s4 * a + b;
            s5 = s5 * a + b, s6 = s6 * a + b, s7 = s7 * a + b, s8 = s8 * a + b, s9 = s9 * a + b;
            // The compiler must neither drop nor merge the chains.
            asm volatile("" : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4));
            asm volatile("" : "+v"(s5), "+v"(s6), "+v"(s7), "+v"(s8), "+v"(s9));
        }
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        const double rate = 2.0 * lanes * chains * turns / seconds;
        if (rate > best) best = rate;
    }
    const float total = (s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9)[0];
    std::printf("%.6e %f\n", best, total);
}
