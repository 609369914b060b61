"""CRC-32C: right, verified once, and never silently slow."""

import sys
from types import ModuleType

import pytest

from kvstore.errors import ConfigError
from kvstore.storage import checksum


def test_crc32c_of_the_standard_vectors() -> None:
    """Goal: it is CRC-32C and no other CRC; vectors of RFC 3720 appendix B.4."""
    assert checksum.crc32c(b"123456789") == checksum.CHECK_VALUE == 0xE3069283
    assert checksum.crc32c(bytes(32)) == 0x8A9136AA
    assert checksum.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert checksum.crc32c(bytes(range(32))) == 0x46DD794E
    assert checksum.crc32c(b"") == 0


def test_seed_continues_a_checksum() -> None:
    """Goal: a CRC can be computed piece by piece."""
    whole = checksum.crc32c(b"abcdef")
    assert checksum.crc32c(b"def", checksum.crc32c(b"abc")) == whole


def test_self_test_refuses_implementations_that_disagree() -> None:
    """Goal: a broken library cannot write checksums that others refuse."""
    good = checksum.verified()

    def wrong(crc: int, data: bytes) -> int:
        return 0

    def wrong_when_seeded(crc: int, data: bytes) -> int:
        return good(0, data)

    with pytest.raises(ConfigError, match="google-crc32c is broken"):
        checksum.self_test(good, wrong)
    with pytest.raises(ConfigError, match="crcmod is broken"):
        checksum.self_test(wrong, good)
    with pytest.raises(ConfigError, match=r"disagree.*reinstall both"):
        checksum.self_test(good, wrong_when_seeded)


def test_missing_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: each way in which a library can be missing or slow says what to do."""
    monkeypatch.setitem(sys.modules, "crcmod.predefined", None)
    with pytest.raises(ConfigError, match="pip install crcmod-plus"):
        checksum._load_reference()
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(ConfigError, match="pip install google-crc32c"):
        checksum._load_fast()


def test_pure_python_libraries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a checksum thirty times slower is an error, not a surprise."""
    checksum.verified()
    monkeypatch.delitem(sys.modules, "crcmod._crcfunext")
    with pytest.raises(ConfigError, match="crcmod runs in pure Python"):
        checksum._load_reference()
    slow = ModuleType("google_crc32c")
    slow.__dict__["implementation"] = "python"
    monkeypatch.setitem(sys.modules, "google_crc32c", slow)
    with pytest.raises(ConfigError, match="without its compiled extension"):
        checksum._load_fast()
