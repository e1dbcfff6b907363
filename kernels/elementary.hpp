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

namespace fastmlp {

template <typename T>
struct Format;

template <>
struct Format<float> {
    using Bits = std::int32_t;
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    static constexpr float to_integer = 0x1.8p23f;  // adding it leaves the nearest integer below
    static constexpr float lowest = -104.0f, highest = 89.0f;  // exp is 0 below and inf above
    static constexpr float tanh_is_one = 10.0f;
    static constexpr float exp_series[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558eep-5f,
                                           0x1.1239d4p-7f, 0x1.6a25bap-10f};
    static constexpr float atanh_series[] = {0x1.5555p-2f, 0x1.99d2aap-3f,
                                             0x1.1eb2bep-3f, 0x1.1f0a34p-3f};
    static constexpr Bits upper_half = ~0xfff;  // of the digits; its square is exact
    static constexpr float tail_centre = 3.0f, tail_end = 15.0f;
    static constexpr float tail_ratio[] = {
        0x1.f1b89cp-4f, -0x1.a6b66ap-3f, 0x1.f8bad0p-4f, -0x1.7a9442p-5f, 0x1.91ddcap-8f,
        0x1.7cb15cp-9f, -0x1.01cff2p-10f, -0x1.63ad9ep-12f, 0x1.e347e8p-14f, 0x1.bfa400p-15f};
};

template <>
struct Format<double> {
    using Bits = std::int64_t;
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
    static constexpr double to_integer = 0x1.8p52;
    static constexpr double lowest = -746.0, highest = 710.0;
    static constexpr double tanh_is_one = 20.0;
    static constexpr double exp_series[] = {
        0x1.000000000000ap-1,  0x1.55555555554fap-3,  0x1.55555555508c0p-5,  0x1.1111111127af5p-7,
        0x1.6c16c1841de22p-10, 0x1.a01a012a8e04ap-13, 0x1.a0199a28c303ep-16, 0x1.71df250445e38p-19,
        0x1.28ad5baff2323p-22, 0x1.ad7fb6cd31643p-26};
    static constexpr double atanh_series[] = {
        0x1.5555555555556p-2, 0x1.9999999999551p-3, 0x1.24924924c24e2p-3, 0x1.c71c71a594c88p-4,
        0x1.745d1e10326c9p-4, 0x1.3b12d465bdb43p-4, 0x1.11235fe34bf55p-4, 0x1.dfe04cd453d96p-5,
        0x1.c1805f6f40e40p-5, 0x1.1e395702c139bp-5, 0x1.517b2f36cd1c7p-4};
    static constexpr Bits upper_half = ~0x7ffffff;
    static constexpr double tail_centre = 5.0, tail_end = 39.0;
    static constexpr double tail_ratio[] = {
        0x1.3b0fbcb4c77bep-4, -0x1.25cd1321c8cb5p-3, 0x1.db6af8722ce4ap-4, -0x1.4b4ce479f83c5p-4,
        0x1.8807f29ff85fap-5, -0x1.7f9d04377408dp-6, 0x1.26a1153b023ffp-7, -0x1.37ccc56d96161p-9,
        0x1.cc6e679c7a8d7p-13, 0x1.199954cacb7cdp-13, -0x1.fae707f5a92ddp-15, 0x1.020c80f291686p-20,
        0x1.bde6497740dc9p-18, -0x1.54ef0a134d004p-20, -0x1.6a6e237237d3cp-21, 0x1.054b11617d44cp-22,
        0x1.4b2d6eade5e4fp-24, -0x1.5074f86bf05d8p-25, -0x1.79d2c05d7662dp-27, 0x1.86f2499b78a05p-28,
        0x1.f5f45c73b04b9p-30, -0x1.390ab3a2fe5a0p-31, -0x1.fd97c9c1dd06ep-33};
};

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
    constexpr T log2_e = T(1.44269504088896340735992468100189214);
    const T shifted = z * (k * log2_e) + F::to_integer;
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
