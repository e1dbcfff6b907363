"""Why fastmlp is not the fastest, where it is not."""

__all__ = ["REASONS"]

#: Patterns of "group: line: who is faster", and the reason; the first that matches counts.
REASONS: dict[str, str] = {
    r"^cold: import": (
        "importing fastmlp imports NumPy, and then its own modules and compiled kernels"
    ),
    r"^(forward|batches): .*forward.*: ONNX Runtime": (
        "both reach about the same share of the processor's multiply-adds; who is ahead by a few "
        "per cent changes from run to run"
    ),
}
