"""Why fastmlp is not the fastest, where it is not."""

__all__ = ["REASONS"]

#: Patterns of "group: line: who is faster: how many times", and the reason; the first that matches
#: counts.
REASONS: dict[str, str] = {
    r"^cold: import": (
        "importing fastmlp imports NumPy, and then its own modules and compiled kernels"
    ),
    r"^cold: first training steps after it.*: NumPy": (
        "NumPy is loaded already; fastmlp loads its compiled kernels and the module that trains "
        "when they are first needed, which takes longer than the steps"
    ),
    r"^(forward|batches): .* forward, .*: ONNX Runtime: 1\.(0\d|10)$": (
        "both reach nearly the same share of the multiply-adds; which of them is a few per cent "
        "ahead depends on where each process has its memory"
    ),
}
