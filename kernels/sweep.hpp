// One sample: sweeps over the rows of a weight, each of which is read once.
#pragma once

#include "tile.hpp"

namespace fastmlp {

// Lane r of sums[0] becomes the sum of the lanes of vector r: each round adds the halves of two
// vectors into one, and leaves half as many.
template <typename T, int COUNT>
static inline void add_lanes(typename Pack<T>::type* sums) {
    using Lanes = std::make_index_sequence<vector_width<T>()>;
    constexpr int half = COUNT / 2;
#pragma GCC unroll 8
    for (int r = 0; r < half; ++r)
        sums[r] = interleave<0>(sums[r], sums[r + half], Lanes()) +
                  interleave<1>(sums[r], sums[r + half], Lanes());
    if constexpr (half > 1) add_lanes<T, half>(sums);
}

// out[r] = Σⱼ w[r·w_row + j] · d[j] for `rows` ≤ vector_width; reads w and d up to a whole vector,
// and what is beyond `columns` must be 0 in one of them and finite in the other.
template <typename T>
static inline void dot_rows(const T* w, std::ptrdiff_t w_row, std::ptrdiff_t rows, const T* d,
                            std::ptrdiff_t columns, T* out) {
    using Vector = typename Pack<T>::type;
    constexpr int width = vector_width<T>();
    Vector sums[width] = {};
    if (rows == width) {
        for (std::ptrdiff_t j = 0; j < columns; j += width) {
            const Vector factor = *reinterpret_cast<const Vector*>(d + j);
#pragma GCC unroll 16
            for (int r = 0; r < width; ++r)
                sums[r] += *reinterpret_cast<const Vector*>(w + r * w_row + j) * factor;
        }
        add_lanes<T, width>(sums);
        *reinterpret_cast<Vector*>(out) = sums[0];
        return;
    }
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        Vector sum = {};
        for (std::ptrdiff_t j = 0; j < columns; j += width)
            sum += *reinterpret_cast<const Vector*>(w + r * w_row + j) *
                   *reinterpret_cast<const Vector*>(d + j);
        sums[r] = sum;
    }
    add_lanes<T, width>(sums);
    for (std::ptrdiff_t r = 0; r < rows; ++r) out[r] = sums[0][r];
}

// The step of a weight under gradient descent, for a number or a vector of them.
template <typename T, typename Vector>
static inline Vector sgd(Vector theta, Vector grad, T learning_rate, T decay) {
    return theta - learning_rate * (grad + decay * theta);
}

// A few samples: inputs x[i·x_row + r] of row r, and δ d[i·d_row + j].
template <typename T>
struct Samples {
    const T* x;
    std::ptrdiff_t x_row;
    const T* d;
    std::ptrdiff_t d_row;
    std::ptrdiff_t n;
};

// Σᵢ x[i, r] · d[i, j] for COUNT elements or vectors from j, each one chain in the order of i.
template <bool ONE, int COUNT, typename Vector, typename T>
static inline void outer_sums(const Samples<T>& samples, std::ptrdiff_t r, std::ptrdiff_t j,
                              Vector (&sums)[COUNT]) {
    constexpr std::ptrdiff_t width = sizeof(Vector) / sizeof(T);
    const T *x = samples.x + r, *d = samples.d + j;
#pragma GCC unroll 4
    for (int v = 0; v < COUNT; ++v)
        sums[v] = x[0] * *reinterpret_cast<const Vector*>(d + v * width);
    if constexpr (ONE) return;
    for (std::ptrdiff_t i = 1; i < samples.n; ++i) {
        x += samples.x_row;
        d += samples.d_row;
#pragma GCC unroll 4
        for (int v = 0; v < COUNT; ++v)
            sums[v] += x[0] * *reinterpret_cast<const Vector*>(d + v * width);
    }
}

// Calls rule(θ, g) for each weight of `rows` rows, g = Σᵢ xᵢ dᵢᵀ, and keeps what it returns. A row
// where the only sample is 0 is left out if so wished.
template <bool ONE, typename T, typename Rule>
static inline void sweep_outer(const Samples<T>& samples, std::ptrdiff_t rows,
                               std::ptrdiff_t columns, T* theta, std::ptrdiff_t theta_row, bool skip,
                               Rule rule) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>();
    constexpr int several = 4;
    for (std::ptrdiff_t r = 0; r < rows; ++r, theta += theta_row) {
        if (skip && samples.x[r] == 0) continue;
        Vector sums[several], sum[1];
        T rest[1];
        std::ptrdiff_t j = 0;
        for (; j + several * width <= columns; j += several * width) {
            outer_sums<ONE>(samples, r, j, sums);
#pragma GCC unroll 4
            for (int v = 0; v < several; ++v) {
                Vector& place = *reinterpret_cast<Vector*>(theta + j + v * width);
                place = rule(place, sums[v]);
            }
        }
        for (; j + width <= columns; j += width) {
            outer_sums<ONE>(samples, r, j, sum);
            Vector& place = *reinterpret_cast<Vector*>(theta + j);
            place = rule(place, sum[0]);
        }
        for (; j < columns; ++j) {
            outer_sums<ONE>(samples, r, j, rest);
            theta[j] = rule(theta[j], rest[0]);
        }
    }
}

template <typename T, typename Rule>
static inline void for_outer(const Samples<T>& samples, std::ptrdiff_t rows, std::ptrdiff_t columns,
                             T* theta, std::ptrdiff_t theta_row, bool skip, Rule rule) {
    if (samples.n == 1)
        sweep_outer<true>(samples, rows, columns, theta, theta_row, skip, rule);
    else
        sweep_outer<false>(samples, rows, columns, theta, theta_row, skip, rule);
}

// out ← Σᵢ xᵢ dᵢᵀ of n samples.
template <typename T>
static void store_outer(const T* x, std::ptrdiff_t x_row, const T* d, std::ptrdiff_t d_row,
                        std::ptrdiff_t n, std::ptrdiff_t rows, std::ptrdiff_t columns, T* out,
                        std::ptrdiff_t out_row) {
    for_outer(Samples<T>{x, x_row, d, d_row, n}, rows, columns, out, out_row, false,
              [](auto, auto grad) { return grad; });
}

// The step of gradient descent with the gradient Σᵢ xᵢ dᵢᵀ of n samples.
template <typename T>
static void sgd_outer(const T* x, std::ptrdiff_t x_row, const T* d, std::ptrdiff_t d_row,
                      std::ptrdiff_t n, std::ptrdiff_t rows, std::ptrdiff_t columns, T* theta,
                      std::ptrdiff_t theta_row, T learning_rate, T decay, bool skip) {
    for_outer(Samples<T>{x, x_row, d, d_row, n}, rows, columns, theta, theta_row, skip,
              [=](auto place, auto grad) { return sgd(place, grad, learning_rate, decay); });
}

// Whether no element is NaN or infinite.
template <typename T>
static bool all_finite(const T* d, std::ptrdiff_t n) {
    T total = 0;  // 0, or NaN
    for (std::ptrdiff_t j = 0; j < n; ++j) total += d[j] - d[j];
    return total == 0;
}

}  // namespace fastmlp
