"""The Cython backend for x86-64-v3 (AVX2, FMA)."""

include "_cython_body.pxi"
