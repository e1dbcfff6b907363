// Written by setup.py from elementary.py.
#pragma once
#include <cstdint>
namespace fastmlp {
template <typename T>
struct Format;
template <>
struct Format<float> {
    using Bits = std::int32_t;
    static constexpr Bits mantissa = 23;
    static constexpr Bits bias = 127;
    static constexpr float log2_e = float(0x1.7154760000000p+0);
    static constexpr float ln2_high = float(0x1.62e4000000000p-1);
    static constexpr float ln2_low = float(0x1.7f7d1c0000000p-20);
    static constexpr float to_integer = float(0x1.8000000000000p+23);
    static constexpr float lowest = float(-0x1.a000000000000p+6);
    static constexpr float highest = float(0x1.6400000000000p+6);
    static constexpr float negligible = float(0x1.0000000000000p-66);
    static constexpr float tanh_is_one = float(0x1.4000000000000p+3);
    static constexpr float exp_series[] = {float(0x1.fffffc0000000p-2), float(0x1.5554920000000p-3), float(0x1.5558ee0000000p-5), float(0x1.1239d40000000p-7), float(0x1.6a25ba0000000p-10)};
    static constexpr float atanh_series[] = {float(0x1.5555000000000p-2), float(0x1.99d2aa0000000p-3), float(0x1.1eb2be0000000p-3), float(0x1.1f0a340000000p-3)};
    static constexpr Bits upper_half = -4096;
    static constexpr float tail_centre = float(0x1.8000000000000p+1);
    static constexpr float tail_end = float(0x1.e000000000000p+3);
    static constexpr float tail_ratio[] = {float(0x1.f1b89c0000000p-4), float(-0x1.a6b66a0000000p-3), float(0x1.f8bad00000000p-4), float(-0x1.7a94420000000p-5), float(0x1.91ddca0000000p-8), float(0x1.7cb15c0000000p-9), float(-0x1.01cff20000000p-10), float(-0x1.63ad9e0000000p-12), float(0x1.e347e80000000p-14), float(0x1.bfa4000000000p-15)};
};
template <>
struct Format<double> {
    using Bits = std::int64_t;
    static constexpr Bits mantissa = 52;
    static constexpr Bits bias = 1023;
    static constexpr double log2_e = double(0x1.71547652b82fep+0);
    static constexpr double ln2_high = double(0x1.62e42fee00000p-1);
    static constexpr double ln2_low = double(0x1.a39ef35793c76p-33);
    static constexpr double to_integer = double(0x1.8000000000000p+52);
    static constexpr double lowest = double(-0x1.7500000000000p+9);
    static constexpr double highest = double(0x1.6300000000000p+9);
    static constexpr double negligible = double(0x1.0000000000000p-500);
    static constexpr double tanh_is_one = double(0x1.4000000000000p+4);
    static constexpr double exp_series[] = {double(0x1.000000000000ap-1), double(0x1.55555555554fap-3), double(0x1.55555555508c0p-5), double(0x1.1111111127af5p-7), double(0x1.6c16c1841de22p-10), double(0x1.a01a012a8e04ap-13), double(0x1.a0199a28c303ep-16), double(0x1.71df250445e38p-19), double(0x1.28ad5baff2323p-22), double(0x1.ad7fb6cd31643p-26)};
    static constexpr double atanh_series[] = {double(0x1.5555555555556p-2), double(0x1.9999999999551p-3), double(0x1.24924924c24e2p-3), double(0x1.c71c71a594c88p-4), double(0x1.745d1e10326c9p-4), double(0x1.3b12d465bdb43p-4), double(0x1.11235fe34bf55p-4), double(0x1.dfe04cd453d96p-5), double(0x1.c1805f6f40e40p-5), double(0x1.1e395702c139bp-5), double(0x1.517b2f36cd1c7p-4)};
    static constexpr Bits upper_half = -134217728;
    static constexpr double tail_centre = double(0x1.4000000000000p+2);
    static constexpr double tail_end = double(0x1.3800000000000p+5);
    static constexpr double tail_ratio[] = {double(0x1.3b0fbcb4c77bep-4), double(-0x1.25cd1321c8cb5p-3), double(0x1.db6af8722ce4ap-4), double(-0x1.4b4ce479f83c5p-4), double(0x1.8807f29ff85fap-5), double(-0x1.7f9d04377408dp-6), double(0x1.26a1153b023ffp-7), double(-0x1.37ccc56d96161p-9), double(0x1.cc6e679c7a8d7p-13), double(0x1.199954cacb7cdp-13), double(-0x1.fae707f5a92ddp-15), double(0x1.020c80f291686p-20), double(0x1.bde6497740dc9p-18), double(-0x1.54ef0a134d004p-20), double(-0x1.6a6e237237d3cp-21), double(0x1.054b11617d44cp-22), double(0x1.4b2d6eade5e4fp-24), double(-0x1.5074f86bf05d8p-25), double(-0x1.79d2c05d7662dp-27), double(0x1.86f2499b78a05p-28), double(0x1.f5f45c73b04b9p-30), double(-0x1.390ab3a2fe5a0p-31), double(-0x1.fd97c9c1dd06ep-33)};
};
}  // namespace fastmlp
