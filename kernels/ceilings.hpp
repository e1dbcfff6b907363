// What a core can do at most, to measure the kernels against.
#pragma once

#include "tile.hpp"

namespace fastmlp {

// Runs chains of multiply-adds on registers, as many as hide their latency; returns something
// that depends on all. Operations: 2 · steps · fma_lanes<T>().
constexpr int FMA_CHAINS = 12;

template <typename T>
constexpr std::ptrdiff_t fma_lanes(const T* = nullptr) { return FMA_CHAINS * vector_width<T>(); }

template <typename T>
static T run_fma(std::ptrdiff_t steps, T factor) {
    using Vector = typename Pack<T>::type;
    Vector sums[FMA_CHAINS], factors = factor - Vector{}, addend = T(1) - Vector{};
#pragma GCC unroll 12
    for (int chain = 0; chain < FMA_CHAINS; ++chain) sums[chain] = addend * T(chain);
    for (std::ptrdiff_t step = 0; step < steps; ++step)
#pragma GCC unroll 12
        for (int chain = 0; chain < FMA_CHAINS; ++chain)
            sums[chain] = sums[chain] * factors + addend;
    Vector total = {};
#pragma GCC unroll 12
    for (int chain = 0; chain < FMA_CHAINS; ++chain) total += sums[chain];
    return total[0];
}

}  // namespace fastmlp
