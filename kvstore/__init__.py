"""A durable, embeddable, replicated key-value store on Raft."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvstore.client.asynchronous import AsyncClient as AsyncClient
    from kvstore.client.blocking import Client as Client
    from kvstore.config import Config as Config
    from kvstore.embedded import open as open  # noqa: A004 - as of a file
    from kvstore.embedded import open_async as open_async
    from kvstore.server.node import Node as Node

_HOMES = {
    "AsyncClient": "kvstore.client.asynchronous",
    "Client": "kvstore.client.blocking",
    "Config": "kvstore.config",
    "Node": "kvstore.server.node",
    "open": "kvstore.embedded",
    "open_async": "kvstore.embedded",
}

__all__ = ["AsyncClient", "Client", "Config", "Node", "open", "open_async"]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562): ``kvstore.raft`` needs no gRPC."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'kvstore' has no attribute {name!r}")
    found: object = getattr(import_module(home), name)
    return found
