"""CRC-32C (Castagnoli): one value, two implementations that must agree.

``crcmod`` is the reference; ``google-crc32c`` computes the same value up to sixty times
faster. Both can silently be pure Python, and a broken build of either could write
checksums that nobody else can verify. So the fast one is used only after it agreed with
the reference, once a process. The stored format depends on neither library.
"""

import sys
from collections.abc import Callable
from functools import cache
from random import Random

from kvstore.errors import ConfigError

Extend = Callable[[int, bytes], int]
"""``extend(crc, data)``: the CRC of what gave ``crc``, followed by ``data``.

Accepts ``bytes`` only, not ``bytearray`` or ``memoryview``.
"""

CHECK_VALUE = 0xE3069283
"""CRC-32C of ``b"123456789"`` (RFC 3720 appendix B.4 tests the same polynomial)."""

_SELF_TEST_BUFFERS = 100
_SELF_TEST_BYTES_MAX = 2048
_SELF_TEST_SEED = 0x1EDC6F41  # the polynomial; any fixed number would do


def crc32c(data: bytes, seed: int = 0) -> int:
    """CRC-32C of ``data``; ``seed`` is the CRC of what comes before it.

    Raises:
        ConfigError: no verified implementation (see :func:`verified`). Definite.
    """
    return verified()(seed, data)


@cache
def verified() -> Extend:
    """The fast implementation, tested against the reference on the first call.

    A node calls this before it opens its data directory. Hot paths keep the result.

    Raises:
        ConfigError: a library is missing, is not the compiled one, or computes
            something else; the message says what to install. Definite.
    """
    reference, fast = _load_reference(), _load_fast()
    self_test(reference, fast)
    return fast


def self_test(reference: Extend, fast: Extend) -> None:
    """Compare two implementations with the check value and with each other.

    Raises:
        ConfigError: they disagree. Definite.
    """
    for name, extend in (("crcmod", reference), ("google-crc32c", fast)):
        actual = extend(0, b"123456789")
        if actual != CHECK_VALUE:
            raise ConfigError(
                f"{name} is broken: CRC-32C of '123456789' should be "
                f"{CHECK_VALUE:#010x}, it computes {actual:#010x}; reinstall it"
            )
    random = Random(_SELF_TEST_SEED)
    for _ in range(_SELF_TEST_BUFFERS):
        data = random.randbytes(random.randrange(_SELF_TEST_BYTES_MAX))
        seed = random.getrandbits(32)
        if reference(seed, data) != fast(seed, data):
            raise ConfigError(
                "google-crc32c and crcmod disagree about the CRC-32C of "
                f"{len(data)} bytes; reinstall both: "
                "pip install --force-reinstall google-crc32c crcmod-plus"
            )


def _load_reference() -> Extend:
    try:
        # The shape of the import matters: installing crcmod beside crcmod-plus and then
        # removing one leaves an importable, empty ``crcmod``.
        from crcmod.predefined import mkCrcFun
    except ImportError as error:
        raise ConfigError(
            "crcmod is not installed: pip install crcmod-plus "
            "(after pip uninstall crcmod: the two share one directory)"
        ) from error
    if "crcmod._crcfunext" not in sys.modules:
        raise ConfigError(
            "crcmod runs in pure Python, thirty times too slow: "
            "pip uninstall crcmod && pip install --force-reinstall crcmod-plus"
        )
    compute: Callable[[bytes, int], int] = mkCrcFun("crc-32c")

    def extend(crc: int, data: bytes) -> int:
        return compute(data, crc)

    return extend


def _load_fast() -> Extend:
    try:
        import google_crc32c
    except ImportError as error:
        raise ConfigError(
            "google-crc32c is not installed: pip install google-crc32c"
        ) from error
    if google_crc32c.implementation != "c":
        raise ConfigError(
            "google-crc32c runs without its compiled extension: "
            "pip install --force-reinstall --only-binary :all: google-crc32c"
        )
    extend: Extend = google_crc32c.extend
    return extend
