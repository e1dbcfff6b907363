"""The Cython backend for any processor."""

include "_cython_body.pxi"
