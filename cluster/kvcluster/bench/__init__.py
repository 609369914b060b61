"""Benchmarks that ship with the project."""
