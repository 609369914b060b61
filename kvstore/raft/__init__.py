"""Consensus, and nothing else: a pure, deterministic Raft core."""
