// exp, sigmoid and tanh without branches, tables or calls, so that loops over them vectorise.
//
// NaN gives NaN, ±inf the limit, and results below the smallest normal number are
// subnormal, not 0. exp: Cody and Waite (1980), ch. 6: z = n·ln 2 + r, |r| ≤ ½ ln 2, then
// eʳ = 1 + r + r²·s(r) with the polynomial s whose largest error in eʳ is least (by Remez'
// algorithm): 0.05 ulp in float32, 0.03 ulp in float64. Over all float32 numbers, with fused
// multiply-adds or without, exp errs by at most 1.01 ulp, sigmoid by 1.87 and tanh by 1.95:
// tests/test_elementary.py measures it.
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
};

template <typename T>
static inline T power_of_two(typename Format<T>::Bits exponent) {
    const auto bits = (exponent + Format<T>::bias) << Format<T>::mantissa;
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
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
