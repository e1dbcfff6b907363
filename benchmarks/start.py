"""Start a worker on some cores: run as a file, with the cores' numbers as arguments.

NumPy starts its threads when it is imported, where it may run then; and to import a module of a
package is to import the package. So the cores are chosen here, before anything else.
"""

import ctypes
import os
import signal
import sys

#: Of prctl(2): the signal that the process gets when its parent ends.
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Choose the cores, then work; a worker that is stopped would outlive its parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.sched_setaffinity(0, map(int, sys.argv[1:]))

    from fastmlp.benchmarks import worker

    worker.main()


if __name__ == "__main__":
    main()
