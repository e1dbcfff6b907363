"""Why fastmlp is not the fastest, where it is not."""

__all__ = ["REASONS"]

#: Patterns of "group: line: who is faster", and the reason; the first that matches counts.
REASONS: dict[str, str] = {
    r"^cold: import": (
        "importing fastmlp imports NumPy, and then its own modules and compiled kernels"
    ),
    r"^cold: first training steps after it.*: NumPy": (
        "NumPy is loaded already; fastmlp loads its compiled kernels and the module that trains "
        "when they are first needed, which takes longer than the steps"
    ),
}
