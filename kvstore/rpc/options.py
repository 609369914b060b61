"""gRPC channel options that clients, members and servers agree on."""

from collections.abc import Sequence

MESSAGE_BYTES_MAX = 128 * 1024 * 1024
"""The largest message either side accepts: the largest request a node can be set up to
admit (64 MiB), and room for what is around it. The node's own limits are lower and say
what they refuse; passing gRPC's breaks the stream."""

MEMBER_KEEPALIVE_MS = 1_000
"""A peer connection that is silent for this long is asked whether it is alive…"""

MEMBER_KEEPALIVE_TIMEOUT_MS = 1_500
"""…and given up without an answer by then: a host that vanished sends no reset."""

PING_INTERVAL_MS_MIN = 100
"""A server allows pings this often, or it would drop who sends them more often."""

ChannelOptions = Sequence[tuple[str, int]]

_MESSAGES: ChannelOptions = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)

_KEEPALIVE: ChannelOptions = (
    ("grpc.keepalive_time_ms", MEMBER_KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", MEMBER_KEEPALIVE_TIMEOUT_MS),
    # Without this one the keepalive's timeout is a minute, whatever the option above.
    ("grpc.http2.ping_timeout_ms", MEMBER_KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

_OWN_CONNECTION: ChannelOptions = (
    # Each channel connects by itself. Channels that share a connection share its
    # reconnect backoff too, and a new channel would wait out an old one's.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),  # whether a repeat is safe is not gRPC's to decide
    ("grpc.enable_http_proxy", 0),
)

SERVER_OPTIONS: ChannelOptions = (
    *_MESSAGES,
    *_KEEPALIVE,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS_MIN),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),  # a second node on the same port must fail to bind
)
"""For a node's server."""

MEMBER_CHANNEL_OPTIONS: ChannelOptions = (*_MESSAGES, *_KEEPALIVE, *_OWN_CONNECTION)
"""For a member's channel to another member."""

CLIENT_CHANNEL_OPTIONS: ChannelOptions = (*_MESSAGES, *_OWN_CONNECTION)
"""For a client's channel; the client pings nodes itself, in the stream."""
