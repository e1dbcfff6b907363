"""Why fastmlp is not the fastest, where it is not."""

__all__ = ["REASONS"]

#: Patterns of "group: line: who is faster", and the reason; the first that matches counts.
REASONS: dict[str, str] = {
    r"^cold: import": (
        "importing fastmlp imports NumPy, and then its own modules and compiled kernels"
    ),
    r"^cold: first training step after it.*: NumPy": (
        "NumPy is loaded already; fastmlp loads its compiled kernels (1.5 ms) and the module that "
        "trains (1 ms) when they are first needed, and the eight steps then take 0.3 ms"
    ),
    r"^(forward|batches): .*forward.*: ONNX Runtime": (
        "both reach about the same share of the processor's multiply-adds; who is ahead by a few "
        "per cent changes from run to run"
    ),
}
