"""The Cython backend for x86-64-v4 (AVX-512)."""

include "_cython_body.pxi"
