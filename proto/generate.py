"""Generate ``kvstore/pb`` from ``proto``; with ``--check``, say if it is up to date.

The generated code is committed, so that users need no compiler; grpcio-tools is pinned
exactly, because its output depends on its version.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = Path("kvstore") / "pb"


def generate(output: Path) -> None:
    """Write the modules below ``output``/kvstore/pb."""
    names = sorted(path.name for path in PROTO.glob("*.proto"))
    builtin = Path(grpc_tools.__file__).parent / "_proto"
    # gRPC's virtual path: the modules import from kvstore.pb without any rewriting.
    status = protoc.main(
        [
            "protoc",
            f"-Ikvstore/pb={PROTO}",
            f"-I{builtin}",
            f"--python_out={output}",
            f"--pyi_out={output}",
            f"--grpc_python_out={output}",
            *(f"kvstore/pb/{name}" for name in names),
        ]
    )
    if status != 0:
        sys.exit(status)


def outdated() -> list[str]:
    """Names of the committed modules that differ from what would be generated."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = {p.name: p.read_bytes() for p in (Path(scratch) / TARGET).iterdir()}
    committed = {
        p.name: p.read_bytes()
        for p in (ROOT / TARGET).iterdir()
        if "_pb2" in p.name and p.is_file()
    }
    names = sorted(fresh.keys() | committed.keys())
    return [name for name in names if fresh.get(name) != committed.get(name)]


def main() -> None:
    """Write or check; the exit status says which is the case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not arguments.check:
        generate(ROOT)
        return
    if names := outdated():
        sys.exit(f"out of date, run {Path(__file__).name}: {', '.join(names)}")


if __name__ == "__main__":
    main()
