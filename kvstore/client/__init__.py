"""Talks to a cluster: pipelined operations, failover, retries."""
