"""Why fastmlp is not the fastest, where it is not."""

__all__ = ["REASONS"]

#: Patterns of "group: line: who is faster", and the reason; the first that matches counts.
REASONS: dict[str, str] = {
    r"^cold: import": (
        "importing fastmlp imports NumPy, and then its own modules and compiled kernels"
    ),
}
