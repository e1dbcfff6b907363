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

// Multiply-adds of a full tile of the kernels, again and again on the same numbers: depth × TILE_ROWS
// of a, then depth rows of b, from the start of a cache line. Each tile starts from the first row of
// the one before. Operations: 2 · steps · tile_fmas<T>(n).
template <typename T>
constexpr std::ptrdiff_t tile_depth(std::ptrdiff_t n) {
    const std::ptrdiff_t depth = n / (TILE_ROWS + tile_columns<T>());
    return depth - depth % vector_width<T>();  // so that b starts a cache line as well
}

template <typename T>
constexpr std::ptrdiff_t tile_fmas(const T*, std::ptrdiff_t n) {
    return tile_depth<T>(n) * TILE_ROWS * tile_columns<T>();
}

template <typename T>
static T run_tile(const T* numbers, std::ptrdiff_t n, std::ptrdiff_t steps) {
    const std::ptrdiff_t depth = tile_depth<T>(n);
    const T* b = numbers + TILE_ROWS * depth;
    alignas(VECTOR_BYTES) T sums[TILE_ROWS * tile_columns<T>()] = {};
    for (std::ptrdiff_t step = 0; step < steps; ++step) {
        multiply_tile<T, TILE_ROWS, TILE_VECTORS, false, false>(
            sums, numbers, 1, TILE_ROWS, b, tile_columns<T>(), depth, sums);
        __asm__ volatile("" : : "r"(sums) : "memory");  // as if somebody took the sums
    }
    return sums[0];
}

// What an update of float32 weights in place does to memory, and reading them. n must be a
// multiple of STREAM_LANES.
constexpr int STREAMS = 8;
enum { STREAM_LANES = STREAMS * vector_width<float>() };

// Reads n elements and returns their sum.
static inline float read_stream(const float* data, std::ptrdiff_t n) {
    using Vector = typename Pack<float>::type;
    Vector sums[STREAMS] = {};
    for (std::ptrdiff_t i = 0; i < n; i += STREAM_LANES)
#pragma GCC unroll 8
        for (int s = 0; s < STREAMS; ++s)
            sums[s] += *reinterpret_cast<const Vector*>(data + i + s * vector_width<float>());
    Vector total = {};
#pragma GCC unroll 8
    for (int s = 0; s < STREAMS; ++s) total += sums[s];
    return total[0];
}

// Reads and writes n elements; returns the last.
static inline float update_stream(float* data, std::ptrdiff_t n, float addend) {
    using Vector = typename Pack<float>::type;
    const Vector addends = addend - Vector{};
    for (std::ptrdiff_t i = 0; i < n; i += STREAM_LANES)
#pragma GCC unroll 8
        for (int s = 0; s < STREAMS; ++s)
            *reinterpret_cast<Vector*>(data + i + s * vector_width<float>()) += addends;
    return data[n - 1];
}

}  // namespace fastmlp
