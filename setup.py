"""Build the compiled kernels: one body, one extension for each instruction set.

Everything else about the package is in ``pyproject.toml``. Environment variables:

- ``FASTMLP_PURE_PYTHON=1`` builds without the extensions; Numba is then the default.
"""

from __future__ import annotations

import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

KERNELS = Path(__file__).parent / "kernels"

# Not -ffast-math: linked that way, gcc makes the whole process flush subnormals to zero.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fno-exceptions",
    "-fvisibility=hidden",
    "-Wno-unknown-pragmas",
]

INSTRUCTION_SETS = {"base": []}
if platform.machine().lower() in {"x86_64", "amd64"}:
    INSTRUCTION_SETS |= {
        "v3": ["-march=x86-64-v3", "-mprfchw"],
        "v4": ["-march=x86-64-v4", "-mprfchw", "-mprefer-vector-width=512"],
    }

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "cdivision": True,
    "initializedcheck": False,
    "wraparound": False,
}

NO_COMPILER = """
The compiled kernels could not be built: {error}
They need a C++17 compiler (gcc 12 or newer). To install without them, with the Numba backend as
the default, set FASTMLP_PURE_PYTHON=1 and install again.
"""


def write_codes() -> None:
    """Write the constants of ``catalogue.py`` as Cython's ``_codes.pxi``."""
    codes = runpy.run_path(str(KERNELS / "catalogue.py"))["CODES"]
    lines = ["# Written by setup.py from catalogue.py.", "cdef enum:"]
    lines += [f"    {name} = {value}" for name, value in codes.items()]
    write("_codes.pxi", lines)


def write_formats() -> None:
    """Write the constants of ``elementary.py`` as C++'s ``_formats.hpp``."""
    lines = ["// Written by setup.py from elementary.py.", "#pragma once", "#include <cstdint>"]
    lines += ["namespace fastmlp {", "template <typename T>", "struct Format;"]
    formats = runpy.run_path(str(KERNELS / "elementary.py"))["FORMATS"]
    for kind, bits, constants in zip(
        ("float", "double"), ("std::int32_t", "std::int64_t"), formats.values(), strict=True
    ):
        lines += ["template <>", f"struct Format<{kind}> {{", f"    using Bits = {bits};"]
        lines += [f"    static constexpr {define(*pair, kind)};" for pair in constants.items()]
        lines += ["};"]
    write("_formats.hpp", [*lines, "}  // namespace fastmlp"])


def define(name: str, value: float | tuple[float, ...], kind: str) -> str:
    """Return the definition of a constant, or of several."""
    if isinstance(value, tuple):
        return f"{kind} {name}[] = {{{', '.join(f'{kind}({number.hex()})' for number in value)}}}"
    if isinstance(value, float):
        return f"{kind} {name} = {kind}({value.hex()})"
    return f"Bits {name} = {value}"


def write(name: str, lines: list[str]) -> None:
    """Write a file beside the kernels, unless it is there: a new date would recompile all."""
    text, target = "\n".join(lines) + "\n", KERNELS / name
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def extensions() -> list[Extension]:
    """Describe the extensions: the processor's features, and the kernels of each set."""
    sources = {"_processor": []} | {
        f"_cython_{name}": flags for name, flags in INSTRUCTION_SETS.items()
    }
    return [
        Extension(
            f"fastmlp.kernels.{module}",
            [f"kernels/{module}.pyx"],
            include_dirs=["kernels", np.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
            extra_compile_args=[*FLAGS, *flags],
            depends=[str(path) for pattern in ("*.pxi", "*.hpp") for path in KERNELS.glob(pattern)],
            language="c++",
        )
        for module, flags in sources.items()
    ]


class BuildFromScratch(build):
    """Build into an empty ``build/lib*``, else wheels ship extensions of earlier builds."""

    def run(self) -> None:
        """Clear, then build."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildExtensions(build_ext):
    """Build with OpenMP where the compiler has it, two extensions at a time."""

    def build_extensions(self) -> None:
        """Add the OpenMP flag if it works, and explain a failure."""
        if self.has_openmp():
            for extension in self.extensions:
                extension.extra_compile_args.append("-fopenmp")
                extension.extra_link_args.append("-fopenmp")
        else:
            self.warn("the compiler has no OpenMP: the kernels will use one thread")
        self.parallel = self.parallel or os.cpu_count()
        try:
            super().build_extensions()
        except Exception as error:
            sys.exit(NO_COMPILER.format(error=error))

    def has_openmp(self) -> bool:
        """Return whether a program that uses OpenMP compiles and links."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }")
            command = [*self.compiler.compiler_so, "-fopenmp", str(source), "-o", f"{folder}/probe"]
            return subprocess.run(command, capture_output=True).returncode == 0


def main() -> None:
    """Run setuptools, with the extensions unless they are declined."""
    options = {"cmdclass": {"build": BuildFromScratch, "build_ext": BuildExtensions}}
    if not os.environ.get("FASTMLP_PURE_PYTHON"):
        from Cython.Build import cythonize

        write_codes()
        write_formats()
        options["ext_modules"] = cythonize(
            extensions(), compiler_directives=DIRECTIVES, include_path=["kernels"]
        )
    setup(**options)


main()
