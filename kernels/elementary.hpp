// exp, expm1, log1p, sigmoid, tanh and the normal distribution without branches, tables or
// calls, so that loops over them vectorise.
//
// NaN gives NaN, ±inf the limit, and results below the smallest normal number are
// subnormal, not 0. exp: Cody and Waite (1980), ch. 6: z = n·ln 2 + r, |r| ≤ ½ ln 2, then
// eʳ = 1 + r + r²·s(r) with the polynomial s whose largest error in eʳ is least (by Remez'
// algorithm): 0.05 ulp in float32, 0.03 ulp in float64. Over all float32 numbers, with fused
// multiply-adds or without, exp errs by at most 1.01 ulp, sigmoid by 1.87 and tanh by 1.95:
// tests/test_elementary.py measures it. The other polynomials are found in the same way.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "_formats.hpp"  // the constants, written by setup.py from elementary.py

namespace fastmlp {

template <typename T>
static inline T power_of_two(typename Format<T>::Bits exponent) {
    const auto bits = (exponent + Format<T>::bias) << Format<T>::mantissa;
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// c₀ + c₁x + c₂x² + …, by Horner's rule.
template <typename T, std::size_t size>
static inline T polynomial(const T (&c)[size], T x) {
    T sum = c[size - 1];
#pragma GCC unroll 32
    for (std::size_t k = size - 1; k > 0; --k) sum = sum * x + c[k - 1];
    return sum;
}

// Splits z = n·ln 2/k + r; returns (eᵏʳ − 1)/k. k is a power of two, so its factors are exact.
template <int k, typename T>
static inline T reduced_expm1(T z, typename Format<T>::Bits* n) {
    using F = Format<T>;
    const T shifted = z * (k * F::log2_e) + F::to_integer;
    const T origin = F::to_integer, rounded = shifted - origin;
    typename F::Bits high, low;
    std::memcpy(&high, &shifted, sizeof shifted);
    std::memcpy(&low, &origin, sizeof origin);
    *n = high - low;
    const T r = (z - rounded * (F::ln2_high / k)) - rounded * (F::ln2_low / k);
    constexpr int last = sizeof F::exp_series / sizeof(T) - 1;
    T factor = k;  // of the coefficient of rʲ: kʲ⁺¹
#pragma GCC unroll 16
    for (int j = 0; j < last; ++j) factor *= k;
    T series = F::exp_series[last] * factor;
#pragma GCC unroll 16
    for (int j = last - 1; j >= 0; --j) {
        factor /= k;
        series = series * r + F::exp_series[j] * factor;
    }
    return r + r * r * series;
}

// z, but no −inf: its product with a vanishing factor is then 0 and not NaN.
template <typename T>
static inline T floored(T z) {
    return z < Format<T>::lowest ? Format<T>::lowest : z;
}

// A number, or 0 where it is nothing beside those of other units. What falls like exp(−z²)
// reaches subnormal numbers at z = −10, and a product with one of these takes a hundred times
// as long: 31 outputs and 31 slopes of 16,384 made a training step 1.5 times as long.
template <typename T>
static inline T significant(T value) {
    return std::fabs(value) < Format<T>::negligible ? 0 : value;
}

// A mean of gradients that come no more, or 0 where it has faded to a subnormal number. There it
// would stay for ever, since 0.9 · 4 ulp are rounded to 4 ulp, and each step with it would take
// many times as long: with units that ReLU had switched off for good, steps of Adam took 2 to 4
// times as long as at first.
template <typename T>
static inline T fading(T mean) {
    return std::fabs(mean) < Format<T>::least_normal ? 0 : mean;
}

// A mean of squares does not fade that far either. It stops above 0, since its root divides, and
// where its product with a β of ¼ or more is still normal.
template <typename T>
static inline T lasting(T square) {
    constexpr T least = 4 * Format<T>::least_normal;
    return least > square ? least : square;
}

template <typename T>
static inline T bounded(T z) {
    z = floored(z);
    return z > -Format<T>::lowest ? -Format<T>::lowest : z;
}

// exp where it neither overflows nor vanishes.
template <typename T>
static inline T unbounded_exp(T z) {
    typename Format<T>::Bits n;
    const T value = 1 + reduced_expm1<1>(z, &n);
    const auto half = n >> 1;  // in two steps: 2ⁿ alone may overflow or be subnormal
    return value * power_of_two<T>(half) * power_of_two<T>(n - half);
}

template <typename T>
static inline T fast_exp(T z) {
    z = floored(z);
    z = z > Format<T>::highest ? Format<T>::highest : z;
    return unbounded_exp(z);
}

// sigmoid(−|z|) = s − s·q and sigmoid(|z|) = 1 − q with s = exp(−|z|), q = s / (1 + s): q and
// 1 / (1 + s) themselves err by up to 2.3 ulp.
template <typename T>
static inline T fast_sigmoid(T z) {
    const T small = unbounded_exp(floored(-std::fabs(z)));
    const T larger = z < 0 ? small : 1;
    return larger - larger * (small / (1 + small));
}

// eᶻ − 1 = 2·(2ⁿ⁻¹·(eʳ − 1) + (2ⁿ⁻¹ − ½)), since 2ⁿ alone may overflow. It is −1 below −40.
template <typename T>
static inline T fast_expm1(T z) {
    z = z < -40 ? -40 : z;
    z = z > Format<T>::highest ? Format<T>::highest : z;
    typename Format<T>::Bits n;
    const T reduced = reduced_expm1<1>(z, &n);
    const T half = power_of_two<T>(n - 1);
    return 2 * (reduced * half + (half - T(0.5)));
}

// log(1 + x) = 2·atanh(s) with s = x / (2 + x), for x from 0 to 1 only: atanh(s) is s plus s³
// times a polynomial in s².
template <typename T>
static inline T fast_log1p(T x) {
    const T s = x / (2 + x), square = s * s;
    return 2 * (s + s * square * polynomial(Format<T>::atanh_series, square));
}

// exp(−z²/2). The exponential would enlarge the rounding of z², which is known from the upper
// and the lower half of the digits of z: z² = h² + (z − h)·(z + h).
template <typename T>
static inline T fast_gaussian(T z) {
    T size = std::fabs(z);
    size = size > Format<T>::tail_end ? Format<T>::tail_end : size;
    typename Format<T>::Bits bits;
    std::memcpy(&bits, &size, sizeof size);
    bits &= Format<T>::upper_half;
    T high;
    std::memcpy(&high, &bits, sizeof bits);
    const T square = size * size;
    const T lost = (high * high - square) + (size - high) * (size + high);
    return fast_exp(T(-0.5) * square) * (1 - T(0.5) * lost);
}

// Φ(−|z|) = exp(−z²/2)·R(v) with v = (|z| − c) / (|z| + c), where R is half of Mills' ratio
// times √(2/π), a smooth function on (−1, 1); and Φ(|z|) = 1 − Φ(−|z|).
template <typename T>
static inline T fast_normal_cdf(T z) {
    T size = std::fabs(z);
    size = size > Format<T>::tail_end ? Format<T>::tail_end : size;
    const T v = (size - Format<T>::tail_centre) / (size + Format<T>::tail_centre);
    const T tail = fast_gaussian(z) * polynomial(Format<T>::tail_ratio, v);
    return z < 0 ? tail : 1 - tail;
}

// tanh|z| = t = m / (m + 1) with m = (e²ᶻ − 1) / 2, which keeps the digits of small z. There
// the roundings of sum and quotient cost up to 2.4 ulp; m − m·t is the same number, of which
// they touch only the small second term.
template <typename T>
static inline T fast_tanh(T z) {
    const T size = std::fabs(z);
    typename Format<T>::Bits n;
    const T reduced = reduced_expm1<2>(size, &n);
    const T power = power_of_two<T>(n);
    const T m = reduced * power + (T(0.5) * power - T(0.5)), quotient = m / (m + 1);
    const T value = size < T(0.35) ? m - m * quotient : quotient;
    return std::copysign(size > Format<T>::tanh_is_one ? 1 : value, z);
}

}  // namespace fastmlp
