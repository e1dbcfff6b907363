"""How far a run of pytest is, and what went wrong in it."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

import pytest
from tqdm import tqdm

__all__ = ["Progress"]

#: Seconds between lines of text, where there is no terminal that shows a bar.
INTERVAL = 10.0


class Progress:
    """A plugin of pytest that shows how many cases have been measured, and of which group.

    On a terminal it is a bar; in a file, a line of text now and then.

    Parameters
    ----------
    skipped, failed : list of str
        Filled with the cases that did not run, or did something wrong, and why.
    """

    def __init__(self) -> None:
        self.skipped: list[str] = []
        self.failed: list[str] = []
        self.done, self.group = 0.0, ""

    @pytest.hookimpl
    def pytest_configure(self, config: pytest.Config) -> None:
        """Let the benchmarks find the bar."""
        config.pluginmanager.register(self.advance, "fastmlp-progress")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Start the bar."""
        self.bar = tqdm(
            total=len(session.items), unit=" cases", leave=False, disable=not sys.stderr.isatty()
        )
        self.began = self.told = monotonic()

    def advance(self, n_cases: float) -> None:
        """Show that so many cases, or parts of cases, have been measured."""
        self.done += n_cases
        self.bar.update(self.n_whole - self.bar.n)
        if self.bar.disable and monotonic() > self.told + INTERVAL:
            self._tell()

    @property
    def n_whole(self) -> int:
        """Cases that are done; shares of one add up to a little less."""
        return int(self.done + 1e-6)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Show which group is measured."""
        group = nodeid.partition("test_")[2].partition(".py")[0]
        if group != self.group:
            self.group = group
            self.bar.set_description(group)
            if self.bar.disable:
                self._tell()

    def _tell(self) -> None:
        self.told = monotonic()
        minutes, seconds = divmod(int(self.told - self.began), 60)
        done = f"{self.n_whole} of {self.bar.total} cases"
        print(f"{minutes}:{seconds:02d} {self.group}: {done}", file=sys.stderr, flush=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what did not run, and why."""
        name = report.nodeid.partition("[")[2].rstrip("]")
        if report.skipped:
            reason: Any = report.longrepr
            self.skipped.append(f"{name}: {reason[2].removeprefix('Skipped: ')}")
        elif report.failed:
            self.failed.append(
                f"{name}: {report.longreprtext.splitlines()[-1]}\n{report.longreprtext}"
            )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note modules that cannot be read."""
        if report.failed:
            self.failed.append(f"{report.nodeid}: {report.longreprtext}")

    def pytest_sessionfinish(self) -> None:
        """End the bar."""
        if hasattr(self, "bar"):
            self.bar.close()
