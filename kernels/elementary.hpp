// exp and tanh without branches, tables or calls, so that loops over them vectorise.
//
// NaN gives NaN, ±inf the limit, and results below the smallest normal number are
// subnormal, not 0. exp: Cody and Waite (1980), ch. 6: z = n·ln 2 + r, |r| ≤ ½ ln 2, then the
// Taylor series of eʳ, whose first missing term is below 0.05 ulp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace fastmlp {

template <typename T>
struct Format;

template <>
struct Format<float> {
    using Bits = std::int32_t;
    static constexpr int mantissa = 23, bias = 127, degree = 7;
    static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    static constexpr float to_integer = 0x1.8p23f;  // adding it leaves the nearest integer below
    static constexpr float lowest = -104.0f, highest = 89.0f;  // exp is 0 below and inf above
    static constexpr float tanh_is_one = 10.0f;
};

template <>
struct Format<double> {
    using Bits = std::int64_t;
    static constexpr int mantissa = 52, bias = 1023, degree = 13;
    static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
    static constexpr double to_integer = 0x1.8p52;
    static constexpr double lowest = -746.0, highest = 710.0;
    static constexpr double tanh_is_one = 20.0;
};

template <typename T>
static inline T power_of_two(typename Format<T>::Bits exponent) {
    const auto bits = (exponent + Format<T>::bias) << Format<T>::mantissa;
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Splits z = n·ln 2 + r; returns eʳ − 1.
template <typename T>
static inline T reduced_expm1(T z, typename Format<T>::Bits* n) {
    constexpr T log2_e = T(1.44269504088896340735992468100189214);
    const T shifted = z * log2_e + Format<T>::to_integer;
    const T origin = Format<T>::to_integer, rounded = shifted - origin;
    typename Format<T>::Bits high, low;
    std::memcpy(&high, &shifted, sizeof shifted);
    std::memcpy(&low, &origin, sizeof origin);
    *n = high - low;
    const T r = (z - rounded * Format<T>::ln2_high) - rounded * Format<T>::ln2_low;
    T factorial = 1;
#pragma GCC unroll 16
    for (int k = 2; k <= Format<T>::degree; ++k) factorial *= k;
    T series = 1 / factorial;  // Horner, from 1/degree! to 1/2!
#pragma GCC unroll 16
    for (int k = Format<T>::degree; k > 2; --k) {
        factorial /= k;
        series = series * r + 1 / factorial;
    }
    return r + r * r * series;
}

template <typename T>
static inline T fast_exp(T z) {
    z = z < Format<T>::lowest ? Format<T>::lowest : z;
    z = z > Format<T>::highest ? Format<T>::highest : z;
    typename Format<T>::Bits n;
    const T value = 1 + reduced_expm1(z, &n);
    const auto half = n >> 1;  // in two steps: 2ⁿ alone may overflow or be subnormal
    return value * power_of_two<T>(half) * power_of_two<T>(n - half);
}

// tanh|z| = (e²ᶻ − 1) / (e²ᶻ + 1), through e²ᶻ − 1 so that small z keeps its digits.
template <typename T>
static inline T fast_tanh(T z) {
    T twice = 2 * std::fabs(z);
    twice = twice > 2 * Format<T>::tanh_is_one ? 2 * Format<T>::tanh_is_one : twice;
    typename Format<T>::Bits n;
    const T reduced = reduced_expm1(twice, &n);
    const T power = power_of_two<T>(n);
    const T expm1 = reduced * power + (power - 1);
    return std::copysign(expm1 / (expm1 + 2), z);
}

}  // namespace fastmlp
