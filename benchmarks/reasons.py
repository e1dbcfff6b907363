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
    r"^batches: .*forward, batch 17; .*: ONNX Runtime": (
        "17 rows are three tiles of 6, 6 and 5, and each tile reads all weights from the second "
        "cache, which for so few rows hardly keeps up; 16 rows are two tiles"
    ),
    r"^forward: .*batch 32; 2 threads: ": (
        "fastmlp keeps so little work on one thread: it takes another for each 2·10⁷ operations, "
        "unless set_num_threads says less"
    ),
    r"^(forward|batches): .*forward.*: ONNX Runtime": (
        "both reach about the same share of the processor's multiply-adds; who is ahead by a few "
        "per cent changes from run to run"
    ),
}
