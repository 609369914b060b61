"""Clusters of real processes on one machine, for operators, tests and benchmarks."""
