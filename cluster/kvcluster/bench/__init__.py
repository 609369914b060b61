"""Benchmarks that ship with the project.

``put``: durable puts through one client, alone or beside etcd on the same machine.
``failover``: how long writes stand still when the leader is lost. Both start real
processes with default settings on a real disk, and throw them away.
"""
