// Layers with as many outputs as inputs: sums along a row of units, and the masks of dropout.
#pragma once

#include <cmath>
#include <cstdint>

#include "tile.hpp"

namespace fastmlp {

// Σ term(j) for j < n; `term` is given a type, a vector's or a number's, and where to begin.
template <typename T, typename Term>
static inline T sum_of(std::ptrdiff_t n, Term term) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>();
    Vector sums = {};
    std::ptrdiff_t j = 0;
    for (; j + width <= n; j += width) sums += term(Vector(), j);
    T total = 0;
    for (std::ptrdiff_t lane = 0; lane < width; ++lane) total += sums[lane];
    for (; j < n; ++j) total += term(T(), j);
    return total;
}

template <typename Kind, typename T>
static inline Kind load(const T* place) {
    return *reinterpret_cast<const Kind*>(place);
}

// The mean m of a row, and 1/√(v + ε) with its variance v.
template <typename T>
static void row_moments(const T* x, std::ptrdiff_t n, T eps, T* mean, T* scale) {
    const T m = sum_of<T>(n, [=](auto kind, auto j) { return load<decltype(kind)>(x + j); }) / n;
    const T squares = sum_of<T>(n, [=](auto kind, auto j) {
        const auto distance = load<decltype(kind)>(x + j) - m;
        return distance * distance;
    });
    *mean = m;
    *scale = 1 / std::sqrt(squares / n + eps);
}

// The means of s = δ ⊙ w and of s ⊙ x̂ over the units of a row, x̂ = (x − mean) · scale.
template <typename T>
static void row_slopes(const T* delta, const T* weight, const T* x, std::ptrdiff_t n, T mean,
                       T scale, T* slope, T* along) {
    *slope = sum_of<T>(n, [=](auto kind, auto j) {
                 using Kind = decltype(kind);
                 return load<Kind>(delta + j) * load<Kind>(weight + j);
             }) /
             n;
    *along = sum_of<T>(n, [=](auto kind, auto j) {
                 using Kind = decltype(kind);
                 return load<Kind>(delta + j) * load<Kind>(weight + j) *
                        ((load<Kind>(x + j) - mean) * scale);
             }) /
             n;
}

// What a row of weights adds to the loss, L1 Σ|w| + ½ L2 Σw².
template <typename T>
static T row_penalty(const T* weight, std::ptrdiff_t n, T l1, T l2) {
    return sum_of<T>(n, [=](auto kind, auto j) {
        const auto w = load<decltype(kind)>(weight + j);
        return l1 * (w < 0 ? -w : w) + l2 / 2 * (w * w);
    });
}

// Adds the derivative of that.
template <typename T>
static void add_penalty(const T* weight, std::ptrdiff_t n, T l1, T l2, T* grad) {
    for (std::ptrdiff_t j = 0; j < n; ++j) {
        const T sign = T(weight[j] > 0) - T(weight[j] < 0);
        grad[j] += l1 * sign + l2 * weight[j];
    }
}

// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
static inline std::uint64_t mixed(std::uint64_t bits) {
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
    return bits ^ (bits >> 31);
}

// Wellons, Prospecting for hash functions, 2018, "lowbias32".
static inline std::uint32_t scrambled(std::uint32_t bits) {
    bits = (bits ^ (bits >> 16)) * 0x7FEB352Du;
    bits = (bits ^ (bits >> 15)) * 0x846CA68Bu;
    return bits ^ (bits >> 16);
}

// out ← x · scale where a unit's bits reach the threshold, else 0, for units from `first` on.
template <typename T>
static void drop(std::uint64_t key, std::uint32_t threshold, T scale, std::ptrdiff_t first,
                 const T* __restrict x, std::ptrdiff_t n, T* __restrict out) {
    const std::uint32_t low = std::uint32_t(key), high = std::uint32_t(key >> 32);
    for (std::ptrdiff_t j = 0; j < n; ++j) {
        const std::uint32_t bits = scrambled(scrambled(std::uint32_t(first + j) ^ low) ^ high);
        out[j] = bits >= threshold ? x[j] * scale : T(0);
    }
}

}  // namespace fastmlp
