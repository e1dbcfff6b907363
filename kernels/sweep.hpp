// One sample or a few: sweeps over the rows of a weight, each of which is read once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "tile.hpp"

namespace fastmlp {

// Loads a vector once, even where the compiler would rather take it from memory for each of two
// or three uses: 512 × 512 weights on 3 samples took 14.6 µs so, and take 9.8.
template <typename T>
static inline typename Pack<T>::type load_once(const T* a) {
    return *reinterpret_cast<const volatile typename Pack<T>::type*>(a);
}

enum { NEAR_BYTES = 1 << 20 };  // of a weight that the second cache may hold

// How a tile of a few rows takes the rows of b.
enum Way {
    NEAR,  // one after another
    FAR,  // and asks for them ahead
    LISTED,  // some of them
};

// c[r, j] = start[j] + Σₖ a[r·a_row + k] · b[k·b_step + j]: ROWS × VECTORS sums, rows of c one
// after another; each element one chain of FMAs in the order of k, which are the first `depth`, or
// those that are listed.
template <typename T, int ROWS, int VECTORS, Way WAY>
static inline void multiply_few_tile(const T* start, const T* a, std::ptrdiff_t a_row, const T* b,
                                     std::ptrdiff_t b_step, const std::ptrdiff_t* list,
                                     std::ptrdiff_t depth, T* c) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>(), c_row = few_vectors(ROWS) * width;
    constexpr std::ptrdiff_t ahead = ROWS > 1 ? 4 : 8;
    Vector sums[ROWS][VECTORS];
#pragma GCC unroll 16
    for (int v = 0; v < VECTORS; ++v)
#pragma GCC unroll 3
        for (int r = 0; r < ROWS; ++r)
            sums[r][v] = *reinterpret_cast<const Vector*>(start + v * width);
    for (std::ptrdiff_t k = 0; k < depth; ++k) {
        const std::ptrdiff_t at = WAY == LISTED ? list[k] : k;
        const T* place = b + at * b_step;
        if constexpr (WAY == FAR)
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v)
                __builtin_prefetch(place + ahead * b_step + v * width);
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v) {
            const Vector row = ROWS > 1 ? load_once(place + v * width)
                                        : *reinterpret_cast<const Vector*>(place + v * width);
#pragma GCC unroll 3
            for (int r = 0; r < ROWS; ++r) sums[r][v] += a[r * a_row + at] * row;
        }
    }
#pragma GCC unroll 3
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v)
            *reinterpret_cast<Vector*>(c + r * c_row + v * width) = sums[r][v];
}

template <typename T, int ROWS, Way WAY, int VECTORS = few_vectors(ROWS)>
static inline void multiply_few_vectors(const T* start, const T* a, std::ptrdiff_t a_row,
                                        const T* b, std::ptrdiff_t b_step,
                                        const std::ptrdiff_t* list, std::ptrdiff_t depth, T* c,
                                        std::ptrdiff_t vectors) {
    if (vectors == VECTORS)
        multiply_few_tile<T, ROWS, VECTORS, WAY>(start, a, a_row, b, b_step, list, depth, c);
    else if constexpr (VECTORS > 1)
        multiply_few_vectors<T, ROWS, WAY, VECTORS - 1>(start, a, a_row, b, b_step, list, depth, c,
                                                        vectors);
}

// The tile of `rows` ≤ WIDE_TILE_ROWS and at most few_columns(rows) columns; reads b up to a whole
// vector.
template <typename T, int ROWS = WIDE_TILE_ROWS>
static void multiply_few(const T* start, const T* a, std::ptrdiff_t a_row, const T* b,
                         std::ptrdiff_t b_step, std::ptrdiff_t depth, T* c, std::ptrdiff_t rows,
                         std::ptrdiff_t columns) {
    constexpr std::ptrdiff_t width = vector_width<T>();
    // What is not asked for ahead: what is in the first cache; by one row, which needs little
    // beside its loads, in the second too, where asking would take a tenth of the time.
    constexpr std::ptrdiff_t near_bytes = ROWS > 1 ? 1 << 15 : +NEAR_BYTES;
    const std::ptrdiff_t vectors = (columns + width - 1) / width;
    if (rows == ROWS) {
        if (depth * b_step * std::ptrdiff_t(sizeof(T)) <= near_bytes)
            multiply_few_vectors<T, ROWS, NEAR>(start, a, a_row, b, b_step, nullptr, depth, c,
                                                vectors);
        else
            multiply_few_vectors<T, ROWS, FAR>(start, a, a_row, b, b_step, nullptr, depth, c,
                                               vectors);
    } else if constexpr (ROWS > 1) {
        multiply_few<T, ROWS - 1>(start, a, a_row, b, b_step, depth, c, rows, columns);
    }
}

// c += a·b of one row and the n rows of b that are listed, for at most few_columns(1) columns;
// reads and writes up to a whole vector.
template <typename T>
static void multiply_listed_tile(const T* a, const T* b, std::ptrdiff_t b_step,
                                 const std::ptrdiff_t* list, std::ptrdiff_t n,
                                 std::ptrdiff_t columns, T* c) {
    constexpr std::ptrdiff_t width = vector_width<T>();
    multiply_few_vectors<T, 1, LISTED>(c, a, 0, b, b_step, list, n, c,
                                       (columns + width - 1) / width);
}

// c[r, j] += Σₖ a[r·a_row + k] · b[k·b_step + j] for the COUNT rows k of b that are listed, and
// `vectors` vectors.
template <typename T, int ROWS, int COUNT>
static inline void add_rows(const T* a, std::ptrdiff_t a_row, const T* b, std::ptrdiff_t b_step,
                            const std::ptrdiff_t* list, std::ptrdiff_t vectors, T* c,
                            std::ptrdiff_t c_row) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>();
    const T* rows[COUNT];
    T factors[ROWS][COUNT];
#pragma GCC unroll 8
    for (int k = 0; k < COUNT; ++k) {
        rows[k] = b + list[k] * b_step;
#pragma GCC unroll 3
        for (int r = 0; r < ROWS; ++r) factors[r][k] = a[r * a_row + list[k]];
    }
    for (std::ptrdiff_t j = 0; j < vectors * width; j += width) {
        Vector sums[ROWS];
#pragma GCC unroll 3
        for (int r = 0; r < ROWS; ++r)
            sums[r] = *reinterpret_cast<const Vector*>(c + r * c_row + j);
#pragma GCC unroll 8
        for (int k = 0; k < COUNT; ++k) {
            const Vector row = ROWS > 1 ? load_once(rows[k] + j)
                                        : *reinterpret_cast<const Vector*>(rows[k] + j);
#pragma GCC unroll 3
            for (int r = 0; r < ROWS; ++r) sums[r] += factors[r][k] * row;
        }
#pragma GCC unroll 3
        for (int r = 0; r < ROWS; ++r) *reinterpret_cast<Vector*>(c + r * c_row + j) = sums[r];
    }
}

// c += a·b of `rows` ≤ WIDE_TILE_ROWS and the n rows of b that are listed, as b lies in memory:
// several whole rows at a time, while the sums wait in L1. What comes from far is read at full
// speed only so: where tiles walk down columns of 2048 × 2048 weights each step is in another page,
// and they take 6 % longer. Reads and writes up to a whole vector; the sums are those of a tile to
// the bit.
template <typename T, int ROWS = WIDE_TILE_ROWS>
static void multiply_listed(const T* a, std::ptrdiff_t a_row, const T* b, std::ptrdiff_t b_step,
                            const std::ptrdiff_t* list, std::ptrdiff_t n, std::ptrdiff_t columns,
                            T* c, std::ptrdiff_t c_row, std::ptrdiff_t rows) {
    constexpr std::ptrdiff_t several = 4, width = vector_width<T>();
    const std::ptrdiff_t vectors = (columns + width - 1) / width;
    if (rows == ROWS) {
        std::ptrdiff_t k = 0;
        for (; k + several <= n; k += several)
            add_rows<T, ROWS, several>(a, a_row, b, b_step, list + k, vectors, c, c_row);
        for (; k < n; ++k) add_rows<T, ROWS, 1>(a, a_row, b, b_step, list + k, vectors, c, c_row);
    } else if constexpr (ROWS > 1) {
        multiply_listed<T, ROWS - 1>(a, a_row, b, b_step, list, n, columns, c, c_row, rows);
    }
}

// The bits of a number without its sign: 0 for ±0 alone.
template <typename T>
static inline auto size_bits(const T* x) {
    std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t> bits;
    std::memcpy(&bits, x, sizeof(T));
    return bits + bits;
}

// Lists the rows, of n from `first` on, where one of the samples is not 0, without a branch that
// the processor would have to guess; returns how many.
template <typename T>
static inline std::ptrdiff_t list_rows(const T* x, std::ptrdiff_t x_row, std::ptrdiff_t samples,
                                       std::ptrdiff_t first, std::ptrdiff_t n,
                                       std::ptrdiff_t* list) {
    std::ptrdiff_t count = 0;
    for (std::ptrdiff_t r = first; r < first + n; ++r) {
        auto bits = size_bits(x + r);
        for (std::ptrdiff_t i = 1; i < samples; ++i) bits |= size_bits(x + i * x_row + r);
        list[count] = r;
        count += bits != 0;
    }
    return count;
}

// Counts the rows, of n, where one of the samples is not 0.
template <typename T>
static std::ptrdiff_t count_rows(const T* x, std::ptrdiff_t x_row, std::ptrdiff_t samples,
                                 std::ptrdiff_t n) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>();
    decltype(Vector{} != Vector{}) counts = {};
    std::ptrdiff_t j = 0, list[width];
    for (; j + width <= n; j += width) {
        auto any = *reinterpret_cast<const Vector*>(x + j) != Vector{};
        for (std::ptrdiff_t i = 1; i < samples; ++i)
            any |= *reinterpret_cast<const Vector*>(x + i * x_row + j) != Vector{};
        counts -= any;
    }
    std::ptrdiff_t count = list_rows(x, x_row, samples, j, n - j, list);
    for (std::ptrdiff_t lane = 0; lane < width; ++lane) count += counts[lane];
    return count;
}

// Lane r of sums[0] becomes the sum of the lanes of vector r: each round adds the halves of two
// vectors into one, and leaves half as many.
template <typename T, int COUNT>
static inline void add_lanes(typename Pack<T>::type* sums) {
    using Order = std::make_index_sequence<vector_width<T>()>;
    constexpr int half = COUNT / 2;
#pragma GCC unroll 8
    for (int r = 0; r < half; ++r)
        sums[r] = interleave<0>(sums[r], sums[r + half], Order()) +
                  interleave<1>(sums[r], sums[r + half], Order());
    if constexpr (half > 1) add_lanes<T, half>(sums);
}

// The step of a weight under gradient descent, for a number or a vector of them.
template <typename T, typename Vector>
static inline Vector sgd(Vector theta, Vector grad, T learning_rate, T decay) {
    return theta - learning_rate * (grad + decay * theta);
}

// That step with the gradient xᵀd of one sample, for weights that pass by on another errand.
template <typename T>
struct Descent {
    const T* x;
    T learning_rate;
    T decay;
};

// The last elements of a row in a vector: with what is behind them, or with zeros.
template <typename T>
static inline typename Pack<T>::type load_end(const T* a, std::ptrdiff_t rest, bool padded) {
    using Vector = typename Pack<T>::type;
    if (padded) return *reinterpret_cast<const Vector*>(a);
    Vector end = {};
    std::memcpy(&end, a, rest * sizeof(T));
    return end;
}

// Σⱼ w[list[r]·w_row + j] · d[j], in the lanes of a vector for each of COUNT listed rows. A weight
// that makes a step, if there is one, does so right after it was read: what is read and written is
// then moved once. Where memory is padded to whole vectors, what is there must be 0 in one of w and
// d and finite in the other, and stays; else the ends of rows are copied first.
template <int COUNT, typename T, typename Weight, typename Step>
static inline void dot_some(Weight* w, std::ptrdiff_t w_row, const std::ptrdiff_t* list, const T* d,
                            std::ptrdiff_t columns, bool padded, typename Pack<T>::type* sums,
                            Step step) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>();
    constexpr bool steps = !std::is_same_v<Step, Nothing>;
    const std::ptrdiff_t whole = columns / width * width, rest = columns - whole;
    Vector sum[COUNT] = {};
    Weight* row[COUNT];
    T x[COUNT] = {};
#pragma GCC unroll 8
    for (int r = 0; r < COUNT; ++r) {
        row[r] = w + list[r] * w_row;
        if constexpr (steps) x[r] = step.x[list[r]];
    }
    for (std::ptrdiff_t j = 0; j < whole; j += width) {
        const Vector delta = *reinterpret_cast<const Vector*>(d + j);
#pragma GCC unroll 8
        for (int r = 0; r < COUNT; ++r) {
            const Vector theta = steps ? load_once(row[r] + j)
                                       : *reinterpret_cast<const Vector*>(row[r] + j);
            sum[r] += theta * delta;
            if constexpr (steps)
                *reinterpret_cast<Vector*>(row[r] + j) =
                    sgd(theta, x[r] * delta, step.learning_rate, step.decay);
        }
    }
    if (rest) {
        Vector lanes = {};
        for (int lane = 0; lane < width; ++lane) lanes[lane] = lane;
        const Vector delta = load_end(d + whole, rest, padded);
#pragma GCC unroll 8
        for (int r = 0; r < COUNT; ++r) {
            const Vector theta = load_end(row[r] + whole, rest, padded);
            sum[r] += theta * delta;
            if constexpr (steps) {
                const Vector after = sgd(theta, x[r] * delta, step.learning_rate, step.decay);
                if (padded)
                    *reinterpret_cast<Vector*>(row[r] + whole) = lanes < T(rest) ? after : theta;
                else
                    std::memcpy(row[r] + whole, &after, rest * sizeof(T));
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < COUNT; ++r) sums[r] = sum[r];
}

// The same for `rows` ≤ vector_width listed rows, summed: writes a whole vector.
template <typename T, typename Weight, typename Step>
static inline void dot_stepping_rows(Weight* w, std::ptrdiff_t w_row, const std::ptrdiff_t* list,
                                     std::ptrdiff_t rows, const T* d, std::ptrdiff_t columns,
                                     bool padded, T* out, Step step) {
    using Vector = typename Pack<T>::type;
    constexpr int width = vector_width<T>(), several = width < 4 ? width : 4;
    Vector sums[width];
    std::ptrdiff_t r = 0;
    for (; r + several <= rows; r += several)
        dot_some<several>(w, w_row, list + r, d, columns, padded, sums + r, step);
    for (; r < rows; ++r) dot_some<1>(w, w_row, list + r, d, columns, padded, sums + r, step);
    for (; r < width; ++r) sums[r] = Vector{};
    add_lanes<T, width>(sums);
    *reinterpret_cast<Vector*>(out) = sums[0];
}

// out[i] = Σⱼ w[list[i]·w_row + j] · d[j].
template <typename T>
static void dot_rows(const T* w, std::ptrdiff_t w_row, const std::ptrdiff_t* list,
                     std::ptrdiff_t rows, const T* d, std::ptrdiff_t columns, bool padded,
                     T* out) {
    dot_stepping_rows(w, w_row, list, rows, d, columns, padded, out, Nothing());
}

// That, and a step of gradient descent with the gradient xᵀd of one sample in these rows.
template <typename T>
static void dot_descending_rows(T* w, std::ptrdiff_t w_row, const std::ptrdiff_t* list,
                                std::ptrdiff_t rows, const T* d, std::ptrdiff_t columns,
                                bool padded, T* out, const T* x, T learning_rate, T decay) {
    dot_stepping_rows(w, w_row, list, rows, d, columns, padded, out,
                      Descent<T>{x, learning_rate, decay});
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

// Rows of a weight.
struct Rows {
    const std::ptrdiff_t* list;
    std::ptrdiff_t n;
};

// Calls rule(θ, g) for the last weights of a row, fewer than 2·LANES: in ever smaller vectors.
template <bool ONE, int LANES, typename T, typename Rule>
static inline void sweep_end(const Samples<T>& samples, std::ptrdiff_t r, std::ptrdiff_t j,
                             std::ptrdiff_t columns, T* theta, Rule rule) {
    using Vector = typename Pack<T, LANES>::type;
    if (j + LANES <= columns) {
        Vector sum[1];
        outer_sums<ONE>(samples, r, j, sum);
        Vector& place = *reinterpret_cast<Vector*>(theta + j);
        place = rule(place, sum[0]);
        j += LANES;
    }
    if constexpr (LANES > 1) sweep_end<ONE, LANES / 2>(samples, r, j, columns, theta, rule);
}

// Calls rule(θ, g) for each weight of some rows, g = Σᵢ xᵢ dᵢᵀ, and keeps what it returns.
template <bool ONE, typename T, typename Rule>
static inline void sweep_outer(const Samples<T>& samples, Rows rows, std::ptrdiff_t columns,
                               T* weight, std::ptrdiff_t weight_row, Rule rule) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>();
    constexpr int several = 4, ahead = 2;  // rows: what is changed is better asked for as such
    for (std::ptrdiff_t i = 0; i < rows.n; ++i) {
        const std::ptrdiff_t r = rows.list[i];
        T* theta = weight + r * weight_row;
        const T* later = weight + rows.list[std::min(i + ahead, rows.n - 1)] * weight_row;
        Vector sums[several], sum[1];
        std::ptrdiff_t j = 0;
        for (; j + several * width <= columns; j += several * width) {
#pragma GCC unroll 4
            for (int v = 0; v < several; ++v) __builtin_prefetch(later + j + v * width, 1);
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
        sweep_end<ONE, width / 2>(samples, r, j, columns, theta, rule);
    }
}

template <typename T, typename Rule>
static inline void for_outer(const Samples<T>& samples, Rows rows, std::ptrdiff_t columns,
                             T* theta, std::ptrdiff_t theta_row, Rule rule) {
    if (samples.n == 1)
        sweep_outer<true>(samples, rows, columns, theta, theta_row, rule);
    else
        sweep_outer<false>(samples, rows, columns, theta, theta_row, rule);
}

// The listed rows of out ← Σᵢ xᵢ dᵢᵀ of n samples.
template <typename T>
static void store_outer(const T* x, std::ptrdiff_t x_row, const T* d, std::ptrdiff_t d_row,
                        std::ptrdiff_t n, const std::ptrdiff_t* list, std::ptrdiff_t rows,
                        std::ptrdiff_t columns, T* out, std::ptrdiff_t out_row) {
    for_outer(Samples<T>{x, x_row, d, d_row, n}, Rows{list, rows}, columns, out, out_row,
              [](auto, auto grad) { return grad; });
}

// The step of gradient descent with the gradient Σᵢ xᵢ dᵢᵀ of n samples, in the listed rows.
template <typename T>
static void sgd_outer(const T* x, std::ptrdiff_t x_row, const T* d, std::ptrdiff_t d_row,
                      std::ptrdiff_t n, const std::ptrdiff_t* list, std::ptrdiff_t rows,
                      std::ptrdiff_t columns, T* theta, std::ptrdiff_t theta_row, T learning_rate,
                      T decay) {
    for_outer(Samples<T>{x, x_row, d, d_row, n}, Rows{list, rows}, columns, theta, theta_row,
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
