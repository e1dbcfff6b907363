"""Constants of exp, expm1, log1p, sigmoid, tanh and the normal distribution.

The functions are in ``elementary.hpp``, where their method is described, and again in
:mod:`~fastmlp.kernels._numba_kernels`; the build writes these constants for C++. Only the
standard library is imported here, so that ``setup.py`` can load this file alone.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["FORMATS"]

Constant: TypeAlias = int | float | tuple[float, ...]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float.fromhex, text.split()))


#: Constants by format, then by name. All are numbers of their format. exp is 0 below
#: `lowest` and inf above `highest`; adding `to_integer` leaves the nearest integer in the
#: lowest digits; `upper_half` masks digits such that the square of the rest is exact. What is
#: below `negligible` counts as 0 beside numbers near 1. Below `least_normal` digits are lost.
FORMATS: dict[str, dict[str, Constant]] = {
    "float32": {
        "mantissa": 23,
        "bias": 127,
        "log2_e": float.fromhex("0x1.715476p0"),
        "ln2_high": float.fromhex("0x1.62e4p-1"),
        "ln2_low": float.fromhex("0x1.7f7d1cp-20"),
        "to_integer": float.fromhex("0x1.8p23"),
        "lowest": -104.0,
        "highest": 89.0,
        "negligible": 2.0**-66,
        "least_normal": 2.0**-126,
        "tanh_is_one": 10.0,
        "exp_series": _numbers(
            "0x1.fffffcp-2 0x1.555492p-3 0x1.5558eep-5 0x1.1239d4p-7 0x1.6a25bap-10"
        ),
        "atanh_series": _numbers("0x1.5555p-2 0x1.99d2aap-3 0x1.1eb2bep-3 0x1.1f0a34p-3"),
        "upper_half": ~0xFFF,
        "tail_centre": 3.0,
        "tail_end": 15.0,
        "tail_ratio": _numbers(
            """0x1.f1b89cp-4 -0x1.a6b66ap-3 0x1.f8bad0p-4 -0x1.7a9442p-5 0x1.91ddcap-8
            0x1.7cb15cp-9 -0x1.01cff2p-10 -0x1.63ad9ep-12 0x1.e347e8p-14 0x1.bfa400p-15"""
        ),
    },
    "float64": {
        "mantissa": 52,
        "bias": 1023,
        "log2_e": float.fromhex("0x1.71547652b82fep0"),
        "ln2_high": float.fromhex("0x1.62e42feep-1"),
        "ln2_low": float.fromhex("0x1.a39ef35793c76p-33"),
        "to_integer": float.fromhex("0x1.8p52"),
        "lowest": -746.0,
        "highest": 710.0,
        "negligible": 2.0**-500,
        "least_normal": 2.0**-1022,
        "tanh_is_one": 20.0,
        "exp_series": _numbers(
            """0x1.000000000000ap-1 0x1.55555555554fap-3 0x1.55555555508c0p-5 0x1.1111111127af5p-7
            0x1.6c16c1841de22p-10 0x1.a01a012a8e04ap-13 0x1.a0199a28c303ep-16
            0x1.71df250445e38p-19 0x1.28ad5baff2323p-22 0x1.ad7fb6cd31643p-26"""
        ),
        "atanh_series": _numbers(
            """0x1.5555555555556p-2 0x1.9999999999551p-3 0x1.24924924c24e2p-3
            0x1.c71c71a594c88p-4 0x1.745d1e10326c9p-4 0x1.3b12d465bdb43p-4
            0x1.11235fe34bf55p-4 0x1.dfe04cd453d96p-5 0x1.c1805f6f40e40p-5
            0x1.1e395702c139bp-5 0x1.517b2f36cd1c7p-4"""
        ),
        "upper_half": ~0x7FFFFFF,
        "tail_centre": 5.0,
        "tail_end": 39.0,
        "tail_ratio": _numbers(
            """0x1.3b0fbcb4c77bep-4 -0x1.25cd1321c8cb5p-3 0x1.db6af8722ce4ap-4
            -0x1.4b4ce479f83c5p-4 0x1.8807f29ff85fap-5 -0x1.7f9d04377408dp-6
            0x1.26a1153b023ffp-7 -0x1.37ccc56d96161p-9 0x1.cc6e679c7a8d7p-13
            0x1.199954cacb7cdp-13 -0x1.fae707f5a92ddp-15 0x1.020c80f291686p-20
            0x1.bde6497740dc9p-18 -0x1.54ef0a134d004p-20 -0x1.6a6e237237d3cp-21
            0x1.054b11617d44cp-22 0x1.4b2d6eade5e4fp-24 -0x1.5074f86bf05d8p-25
            -0x1.79d2c05d7662dp-27 0x1.86f2499b78a05p-28 0x1.f5f45c73b04b9p-30
            -0x1.390ab3a2fe5a0p-31 -0x1.fd97c9c1dd06ep-33"""
        ),
    },
}
