"""Check what a wheel holds: every instruction set, nothing generated, and not too much."""

import platform
import sys
import zipfile

MAX_MEGABYTES = 10

SETS = ("base", "v3", "v4") if platform.machine() in ("x86_64", "AMD64") else ("base",)


def main(path: str) -> None:
    """Print the wheel's size, or exit with what is wrong."""
    with zipfile.ZipFile(path) as wheel:
        files = wheel.infolist()
    names = [file.filename for file in files]
    megabytes = sum(file.file_size for file in files) / 1e6
    generated = [name for name in names if name.endswith((".cpp", "_codes.pxi", "_formats.hpp"))]
    if generated:
        sys.exit(f"generated files in the wheel: {generated}")
    extensions = ["_processor", *(f"_cython_{name}" for name in SETS)]
    for needed in (*extensions, "reference.py", "digits.npz", "py.typed"):
        if not any(needed in name for name in names):
            sys.exit(f"{needed} is missing from the wheel")
    if megabytes > MAX_MEGABYTES:
        sys.exit(f"the wheel unpacks to {megabytes:.1f} MB, more than {MAX_MEGABYTES}")
    print(f"{len(names)} files, {megabytes:.2f} MB installed")


main(sys.argv[1])
