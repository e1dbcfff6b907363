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

// Calls rule(θ, g) for each weight of `rows` rows, g = x[r] · d[j], and keeps what it returns.
// Rows whose x is 0 are left out if so wished.
template <typename T, typename Rule>
static inline void for_outer(const T* x, std::ptrdiff_t rows, const T* d, std::ptrdiff_t columns,
                             T* theta, std::ptrdiff_t theta_row, bool skip, Rule rule) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>();
    for (std::ptrdiff_t r = 0; r < rows; ++r, theta += theta_row) {
        const T factor = x[r];
        if (skip && factor == 0) continue;
        std::ptrdiff_t j = 0;
        for (; j + width <= columns; j += width) {
            Vector& place = *reinterpret_cast<Vector*>(theta + j);
            place = rule(place, factor * *reinterpret_cast<const Vector*>(d + j));
        }
        for (; j < columns; ++j) theta[j] = rule(theta[j], factor * d[j]);
    }
}

// out ← x dᵀ, an outer product.
template <typename T>
static void store_outer(const T* x, std::ptrdiff_t rows, const T* d, std::ptrdiff_t columns, T* out,
                        std::ptrdiff_t out_row) {
    for_outer(x, rows, d, columns, out, out_row, false, [](auto, auto grad) { return grad; });
}

// The step of gradient descent with the gradient x dᵀ.
template <typename T>
static void sgd_outer(const T* x, std::ptrdiff_t rows, const T* d, std::ptrdiff_t columns, T* theta,
                      std::ptrdiff_t theta_row, T learning_rate, T decay, bool skip) {
    for_outer(x, rows, d, columns, theta, theta_row, skip, [=](auto theta, auto grad) {
        return sgd(theta, grad, learning_rate, decay);
    });
}

// Whether no element is NaN or infinite.
template <typename T>
static bool all_finite(const T* d, std::ptrdiff_t n) {
    T total = 0;  // 0, or NaN
    for (std::ptrdiff_t j = 0; j < n; ++j) total += d[j] - d[j];
    return total == 0;
}

}  // namespace fastmlp
