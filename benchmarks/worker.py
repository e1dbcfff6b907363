"""One competitor in a process of its own: reads requests, answers with seconds.

The first line of standard input describes the job; each further line is a number of steps
to run. Cores are fixed before anything is imported, so that every library sees the
same machine. Answers are lines of JSON on the original standard output.
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter


def main() -> None:
    """Prepare the job, then run what is asked for."""
    job = json.loads(sys.stdin.readline())
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["n_threads"]])
    answers, sys.stdout = sys.stdout, sys.stderr
    from competitors import COMPETITORS
    from problems import Problem
    from singles import SINGLES

    problem = Problem(**job["problem"])
    try:
        run, result = (SINGLES if problem.single else COMPETITORS)[job["name"]](problem)
    except ImportError as error:
        print(json.dumps({"skipped": str(error)}), file=answers, flush=True)
        return
    began = perf_counter()
    run(job["warm_up"])
    outputs = result().tolist()
    answer = {"outputs": outputs, "seconds": perf_counter() - began}
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin:
        n_steps = int(line)
        began = perf_counter()
        run(n_steps)
        print(json.dumps(perf_counter() - began), file=answers, flush=True)


main()
