// Register tiles: the only code here that names vectors.
//
// GCC's and Clang's vector extensions, no intrinsics: one source for SSE, AVX2, AVX-512
// and NEON. The compiler flags of an extension choose the width.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

namespace fastmlp {

// A tile keeps TILE_ROWS × TILE_VECTORS sums in registers, and a wide tile of a few rows
// WIDE_TILE_ROWS × WIDE_TILE_VECTORS. The flatter a tile, the less it loads for each multiply-add;
// from L1 all that fill the registers are alike within a few per cent.
#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, TILE_ROWS = 9, TILE_VECTORS = 3 };  // 27 of 32 registers hold sums
enum { WIDE_TILE_ROWS = 3 };
#elif defined(__AVX__)
enum { VECTOR_BYTES = 32, TILE_ROWS = 6, TILE_VECTORS = 2 };  // 12 of 16
enum { WIDE_TILE_ROWS = 1 };
#elif defined(__aarch64__)
enum { VECTOR_BYTES = 16, TILE_ROWS = 8, TILE_VECTORS = 3 };  // 24 of 32
enum { WIDE_TILE_ROWS = 3 };
#else
enum { VECTOR_BYTES = 16, TILE_ROWS = 4, TILE_VECTORS = 2 };  // 8 of 16: a product needs one too
enum { WIDE_TILE_ROWS = 1 };
#endif

enum { WIDE_TILE_VECTORS = 8 };
enum { FORESEEN_STEP = 2048 };  // bytes: hardware prefetchers follow shorter steps only

// Elements of a vector, of a tile's row, and of a wide tile's.
template <typename T>
constexpr std::ptrdiff_t vector_width(const T* = nullptr) {
    return VECTOR_BYTES / sizeof(T);
}
template <typename T>
constexpr std::ptrdiff_t tile_columns(const T* = nullptr) {
    return TILE_VECTORS * vector_width<T>();
}
template <typename T>
constexpr std::ptrdiff_t wide_tile_columns(const T* = nullptr) {
    return WIDE_TILE_VECTORS * vector_width<T>();
}

// Vectors in the tile of a few rows, and its columns: one row leaves registers for longer runs of
// b, which L2 delivers up to 1.2 × as fast.
constexpr int few_vectors(std::ptrdiff_t rows) {
    return rows == 1 && WIDE_TILE_ROWS > 1 ? 2 * WIDE_TILE_VECTORS : WIDE_TILE_VECTORS;
}
template <typename T>
constexpr std::ptrdiff_t few_columns(const T*, std::ptrdiff_t rows) {
    return few_vectors(rows) * vector_width<T>();
}

// Narrow tiles are taken several at a time, up to BAND_VECTORS in a row of them, so that what
// follows the sums is worth its beginning.
enum { BAND_VECTORS = 4 };

// Tiles of any width are stacked where their inputs are read by the cache line, of 16 floats.
enum { STACKED_TILES = 2, STACKED_VECTORS = STACKED_TILES * TILE_VECTORS };
enum { STACKED_ROWS = STACKED_TILES * TILE_ROWS < 16 ? STACKED_TILES * TILE_ROWS : 16 };

// Elements of a buffer for the sums of a band, or of a stack, of tiles of any type.
enum {
    TILE_SIZE = TILE_ROWS * (+BAND_VECTORS > +STACKED_VECTORS ? +BAND_VECTORS : +STACKED_VECTORS) *
                vector_width<float>(),
    WIDE_TILE_SIZE = WIDE_TILE_ROWS * wide_tile_columns<float>()
};

// Steps that hardware prefetchers do not follow: 128 × 2048 × 2048 runs at 48 % of the ceiling
// where b lies in such steps, at 74 % where it is packed first.
template <typename T>
constexpr bool is_far(const T*, std::ptrdiff_t step) {
    return step * std::ptrdiff_t(sizeof(T)) >= FORESEEN_STEP;
}

template <typename T, int LANES = vector_width<T>()>
struct Pack {  // a vector that may lie at any element
    typedef T type __attribute__((vector_size(LANES * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <typename T>
struct Pack<T, 1> {
    using type = T;
};

struct Nothing {};

// What a tile does beside its multiply-adds where weights lie far away.
template <typename T>
struct Far {
    bool goes_on;  // its sums begin with what is in their place
    const T* next;  // asked for, a vector a step
    std::ptrdiff_t next_step;
};

// Where its columns are samples: its sums begin with a number for each row, not for each column,
// and its rows go to their places in a matrix.
struct Lanes {
    std::ptrdiff_t start_step;  // 0 for one number for all
    std::ptrdiff_t c_row;
};

// c[r, j] = start[j] + Σₖ a[r·a_row + k·a_step] · b[k·b_step + j]: ROWS × VECTORS sums, one row of c
// after the other unless `later` says so, so that what comes next takes the tile as one row. Each
// element is one chain of FMAs in the order of k, whatever the tile's shape. FAR_A, FAR_B: the
// steps are too long for the processor to foresee, so ask for what comes some steps later. `later`
// may say what else a tile does.
template <typename T, int ROWS, int VECTORS, bool FAR_A, bool FAR_B, typename Later = Nothing>
static inline void multiply_tile(const T* start, const T* a, std::ptrdiff_t a_row,
                                 std::ptrdiff_t a_step, const T* b, std::ptrdiff_t b_step,
                                 std::ptrdiff_t depth, T* c, Later later = {}) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>();
    constexpr std::ptrdiff_t ahead = 8;
    constexpr bool is_far_away = std::is_same_v<Later, Far<T>>;
    std::ptrdiff_t c_row = VECTORS * width;
    Vector sum[ROWS][VECTORS];
    if constexpr (std::is_same_v<Later, Lanes>) {
        c_row = later.c_row;
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v)
                sum[r][v] = Vector{} + start[r * later.start_step];
    } else {
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v) {
            const Vector first = *reinterpret_cast<const Vector*>(start + v * width);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) sum[r][v] = first;
        }
    }
    if constexpr (is_far_away)
        if (later.goes_on)
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; ++v)
                    sum[r][v] = *reinterpret_cast<const Vector*>(c + r * c_row + v * width);
    for (std::ptrdiff_t k = 0; k < depth; ++k, a += a_step, b += b_step) {
        Vector row[VECTORS];
        if constexpr (is_far_away)
            __builtin_prefetch(later.next + k * later.next_step, 0, 2);
        if constexpr (FAR_A) __builtin_prefetch(a + ahead * a_step);
        if constexpr (FAR_B)
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v) __builtin_prefetch(b + ahead * b_step + v * width);
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v)
            row[v] = *reinterpret_cast<const Vector*>(b + v * width);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v) sum[r][v] += a[r * a_row] * row[v];
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v)
            *reinterpret_cast<Vector*>(c + r * c_row + v * width) = sum[r][v];
}

template <typename T, bool FAR_A, bool FAR_B, typename Later, int VECTORS, int ROWS = TILE_ROWS>
static inline void multiply_rows(const T* start, const T* a, std::ptrdiff_t a_row,
                                 std::ptrdiff_t a_step, const T* b, std::ptrdiff_t b_step,
                                 std::ptrdiff_t depth, T* c, std::ptrdiff_t rows, Later later) {
    if (rows == ROWS)
        multiply_tile<T, ROWS, VECTORS, FAR_A, FAR_B>(start, a, a_row, a_step, b, b_step, depth, c,
                                                      later);
    else if constexpr (ROWS > 1)
        multiply_rows<T, FAR_A, FAR_B, Later, VECTORS, ROWS - 1>(start, a, a_row, a_step, b, b_step,
                                                                 depth, c, rows, later);
}

template <typename T, bool FAR_A, bool FAR_B, typename Later = Nothing, int VECTORS = TILE_VECTORS>
static void multiply_columns(const T* start, const T* a, std::ptrdiff_t a_row,
                             std::ptrdiff_t a_step, const T* b, std::ptrdiff_t b_step,
                             std::ptrdiff_t depth, T* c, std::ptrdiff_t rows,
                             std::ptrdiff_t columns, Later later) {
    if (columns > (VECTORS - 1) * vector_width<T>())
        multiply_rows<T, FAR_A, FAR_B, Later, VECTORS>(start, a, a_row, a_step, b, b_step, depth, c,
                                                       rows, later);
    else if constexpr (VECTORS > 1)
        multiply_columns<T, FAR_A, FAR_B, Later, VECTORS - 1>(start, a, a_row, a_step, b, b_step,
                                                              depth, c, rows, columns, later);
}

// Tiles of TILE_ROWS at most, nearly alike, and `columns` ≤ tile_columns, one below the other;
// reads b and writes c up to a whole vector. A tile of one row would load a vector for each
// multiply-add and wait for its few sums: 19 rows are better 7 + 6 + 6 than 9 + 9 + 1.
template <typename T>
static void multiply(const T* start, const T* a, std::ptrdiff_t a_row, std::ptrdiff_t a_step,
                     const T* b, std::ptrdiff_t b_step, std::ptrdiff_t depth, T* c,
                     std::ptrdiff_t rows, std::ptrdiff_t columns) {
    constexpr std::ptrdiff_t width = vector_width<T>();
    const std::ptrdiff_t c_row = (columns + width - 1) / width * width;
    const auto run = !is_far(a, a_step) ? !is_far(b, b_step) ? multiply_columns<T, false, false>
                                                             : multiply_columns<T, false, true>
                     : !is_far(b, b_step) ? multiply_columns<T, true, false>
                                          : multiply_columns<T, true, true>;
    for (std::ptrdiff_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS; tiles > 0; --tiles) {
        const std::ptrdiff_t tile_rows = (rows + tiles - 1) / tiles;
        run(start, a, a_row, a_step, b, b_step, depth, c, tile_rows, columns, Nothing());
        rows -= tile_rows, a += tile_rows * a_row, c += tile_rows * c_row;
    }
}

// Tiles of weights that lie far away: b is near by now, and each step asks for a vector of what
// comes next; the sums begin with `start`, or go on with what is in c.
template <typename T>
static void multiply_on(bool goes_on, const T* start, const T* a, std::ptrdiff_t a_row, const T* b,
                        std::ptrdiff_t b_step, std::ptrdiff_t depth, T* c, std::ptrdiff_t rows,
                        std::ptrdiff_t columns, const T* next, std::ptrdiff_t next_step) {
    constexpr std::ptrdiff_t width = vector_width<T>();
    const std::ptrdiff_t c_row = (columns + width - 1) / width * width;
    for (std::ptrdiff_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS; tiles > 0; --tiles) {
        const std::ptrdiff_t tile_rows = (rows + tiles - 1) / tiles;
        multiply_columns<T, false, false>(start, a, a_row, 1, b, b_step, depth, c, tile_rows,
                                          columns, Far<T>{goes_on, next, next_step});
        rows -= tile_rows, a += tile_rows * a_row, c += tile_rows * c_row;
    }
}

// Tiles of a matrix whose rows are features and whose columns, tile_columns at most, are samples:
// c[r, j] = start[r·start_step] + Σₖ a[r·a_row + k·a_step] · b[k·b_step + j].
template <typename T>
static void multiply_lanes(const T* start, std::ptrdiff_t start_step, const T* a,
                           std::ptrdiff_t a_row, std::ptrdiff_t a_step, const T* b,
                           std::ptrdiff_t b_step, std::ptrdiff_t depth, T* c, std::ptrdiff_t c_row,
                           std::ptrdiff_t rows, std::ptrdiff_t columns) {
    for (std::ptrdiff_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS; tiles > 0; --tiles) {
        const std::ptrdiff_t tile_rows = (rows + tiles - 1) / tiles;
        multiply_columns<T, false, false>(start, a, a_row, a_step, b, b_step, depth, c, tile_rows,
                                          columns, Lanes{start_step, c_row});
        rows -= tile_rows, a += tile_rows * a_row, c += tile_rows * c_row;
        start += tile_rows * start_step;
    }
}

// c[j] = Σₖ b[k·b_step + j], to a whole vector: in more chains than a tile of one row would have.
template <typename T>
static void sum_rows(const T* b, std::ptrdiff_t b_step, std::ptrdiff_t depth, T* c,
                     std::ptrdiff_t columns) {
    using Vector = typename Pack<T>::type;
    constexpr int chains = 8;
    for (std::ptrdiff_t j = 0; j < columns; j += vector_width<T>()) {
        Vector sums[chains] = {};
        std::ptrdiff_t k = 0;
        for (; k + chains <= depth; k += chains)
#pragma GCC unroll 8
            for (int chain = 0; chain < chains; ++chain)
                sums[chain] += *reinterpret_cast<const Vector*>(b + (k + chain) * b_step + j);
        for (; k < depth; ++k) sums[0] += *reinterpret_cast<const Vector*>(b + k * b_step + j);
#pragma GCC unroll 3
        for (int half = chains / 2; half > 0; half /= 2)
#pragma GCC unroll 4
            for (int chain = 0; chain < half; ++chain) sums[chain] += sums[chain + half];
        *reinterpret_cast<Vector*>(c + j) = sums[0];
    }
}

// Copies fewer than 2·LANES elements, in ever smaller vectors.
template <typename T, int LANES>
static inline void copy_end(const T* a, std::ptrdiff_t n, T* c) {
    using Vector = typename Pack<T, LANES>::type;
    if (n >= LANES) {
        *reinterpret_cast<Vector*>(c) = *reinterpret_cast<const Vector*>(a);
        n -= LANES, a += LANES, c += LANES;
    }
    if constexpr (LANES > 1) copy_end<T, LANES / 2>(a, n, c);
}

// Copies a tile: whole vectors, then what is left.
template <typename T>
static inline void copy_tile(const T* a, std::ptrdiff_t a_row, std::ptrdiff_t rows,
                             std::ptrdiff_t columns, T* c, std::ptrdiff_t c_row) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>();
    for (std::ptrdiff_t r = 0; r < rows; ++r, a += a_row, c += c_row) {
        std::ptrdiff_t j = 0;
        for (; j + width <= columns; j += width)
            *reinterpret_cast<Vector*>(c + j) = *reinterpret_cast<const Vector*>(a + j);
        copy_end<T, width / 2>(a + j, columns - j, c + j);
    }
}

// Copies columns of b to the rows of a panel; zeros up to its width.
template <typename T>
static void pack(const T* b, std::ptrdiff_t b_step, std::ptrdiff_t depth, std::ptrdiff_t columns,
                 T* panel, std::ptrdiff_t width) {
    constexpr std::ptrdiff_t unit = 8;  // so that whole units are copied without a loop
    for (std::ptrdiff_t k = 0; k < depth; ++k, b += b_step, panel += width) {
        std::ptrdiff_t j = 0;
        for (; j + unit <= columns; j += unit) std::memcpy(panel + j, b + j, unit * sizeof(T));
        for (; j < columns; ++j) panel[j] = b[j];
        for (; j < width; ++j) panel[j] = 0;
    }
}

// Asks for rows that will soon be changed, before another core must be asked to give them up.
template <typename T>
static inline void fetch(const T* a, std::ptrdiff_t a_row, std::ptrdiff_t rows,
                         std::ptrdiff_t columns) {
    for (std::ptrdiff_t r = 0; r < rows; ++r)
        for (std::ptrdiff_t j = 0; j < columns; j += vector_width<T>())
            __builtin_prefetch(a + r * a_row + j, 1);
}

// Puts lane i of vectors a and b beside each other: half 0 has the lower lanes, half 1 the upper.
template <int HALF, typename Vector, std::size_t... I>
static inline Vector interleave(Vector a, Vector b, std::index_sequence<I...>) {
    constexpr std::size_t width = sizeof...(I);
    return __builtin_shufflevector(a, b, (HALF * width / 2 + I / 2 + I % 2 * width)...);
}

// Writes the transpose of a square of vector_width rows: log₂(width) perfect shuffles of rows.
template <typename T>
static inline void transpose(const T* a, std::ptrdiff_t a_row, T* c, std::ptrdiff_t c_row) {
    using Vector = typename Pack<T>::type;
    constexpr int width = vector_width<T>();
    using Order = std::make_index_sequence<width>;
    Vector rows[width], shuffled[width];
#pragma GCC unroll 16
    for (int r = 0; r < width; ++r) rows[r] = *reinterpret_cast<const Vector*>(a + r * a_row);
#pragma GCC unroll 4
    for (int step = width; step > 1; step /= 2) {
#pragma GCC unroll 8
        for (int r = 0; r < width / 2; ++r) {
            shuffled[2 * r] = interleave<0>(rows[r], rows[r + width / 2], Order());
            shuffled[2 * r + 1] = interleave<1>(rows[r], rows[r + width / 2], Order());
        }
#pragma GCC unroll 16
        for (int r = 0; r < width; ++r) rows[r] = shuffled[r];
    }
#pragma GCC unroll 16
    for (int r = 0; r < width; ++r) *reinterpret_cast<Vector*>(c + r * c_row) = rows[r];
}

// Σⱼ a[j] · b[j], in one order for one n.
template <typename T>
static T dot(const T* a, const T* b, std::ptrdiff_t n) {
    using Vector = typename Pack<T>::type;
    constexpr std::ptrdiff_t width = vector_width<T>();
    constexpr int chains = 4;
    Vector sums[chains] = {};
    std::ptrdiff_t j = 0;
    for (; j + chains * width <= n; j += chains * width)
#pragma GCC unroll 4
        for (int chain = 0; chain < chains; ++chain)
            sums[chain] += *reinterpret_cast<const Vector*>(a + j + chain * width) *
                           *reinterpret_cast<const Vector*>(b + j + chain * width);
    for (; j + width <= n; j += width)
        sums[0] += *reinterpret_cast<const Vector*>(a + j) *
                   *reinterpret_cast<const Vector*>(b + j);
    const Vector folded = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    T total = 0;
    for (std::ptrdiff_t lane = 0; lane < width; ++lane) total += folded[lane];
    for (; j < n; ++j) total += a[j] * b[j];
    return total;
}

}  // namespace fastmlp
