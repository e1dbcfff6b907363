"""A progress bar for a run of pytest, and what went wrong in it."""

from __future__ import annotations

from typing import Any

import pytest
from tqdm import tqdm

__all__ = ["Progress"]


class Progress:
    """A plugin of pytest that shows how many cases have been measured.

    Parameters
    ----------
    skipped, failed : list of str
        Filled with the cases that did not run, or did something wrong, and why.
    """

    def __init__(self) -> None:
        self.skipped: list[str] = []
        self.failed: list[str] = []

    @pytest.hookimpl
    def pytest_configure(self, config: pytest.Config) -> None:
        """Let the benchmarks find the bar."""
        config.pluginmanager.register(self.advance, "fastmlp-progress")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Start the bar."""
        self.done, self.total = 0.0, len(session.items)
        self.bar = tqdm(total=self.total, unit=" cases", leave=False)

    def advance(self, n_cases: float) -> None:
        """Show that so many cases, or parts of cases, have been measured."""
        whole = int(self.done + n_cases) - int(self.done)
        self.done += n_cases
        self.bar.update(whole)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Show which group is measured."""
        self.bar.set_description(nodeid.partition("test_")[2].partition(".py")[0], refresh=False)

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
