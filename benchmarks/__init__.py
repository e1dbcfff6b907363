"""Benchmarks: fastmlp against NumPy, today's libraries and what the processor can do.

``fastmlp bench`` runs them, and so does ``pytest benchmarks --benchmark-only``; without that
option each runs once, as a test. A module ``test_GROUP.py`` says what a group measures.

- :mod:`~fastmlp.benchmarks.problems`: networks and data, the same for every competitor;
- :mod:`~fastmlp.benchmarks.competitors`: each library at its strongest, run in processes of
  their own by :mod:`~fastmlp.benchmarks.worker`;
- :mod:`~fastmlp.benchmarks.ceilings`: what the processor can do at most;
- :mod:`~fastmlp.benchmarks.measuring`: cases, timed in turn between measurements of ceilings;
- :mod:`~fastmlp.benchmarks.results`, :mod:`~fastmlp.benchmarks.plots`,
  :mod:`~fastmlp.benchmarks.report`, :mod:`~fastmlp.benchmarks.comparison`: what is made of them;
- :mod:`~fastmlp.benchmarks.command`: the command.
"""
