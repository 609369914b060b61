"""Batches of commands in words, for scripts: a word a command.

=====================  ==============================================================
word                   command
=====================  ==============================================================
``put:KEY:VALUE``      put
``delete:KEY``         delete
``cas:KEY:OLD:NEW``    put ``NEW`` if the value is ``OLD``; empty: if there is none
``compact:REVISION``   give up history
``open``               open a session
``close:ID``           close it
``session:ID:N:A``     what follows has numbers from ``N`` in the session, whose client
                       has all answers up to ``A``
``hex:...``            anything, as an encoded batch of its own
=====================  ==============================================================
"""

from collections.abc import Iterator, Sequence

from google.protobuf.message import DecodeError

from kvstore.pb import kv_pb2
from kvstore.simulation.arguments import Mistake, number


def parse(words: Sequence[str]) -> bytes:
    """The encoded ``CommandBatch`` of some words. Raises :class:`Mistake`."""
    if len(words) == 1 and words[0].startswith("hex:"):
        try:
            return bytes.fromhex(words[0].removeprefix("hex:"))
        except ValueError:
            raise Mistake(f"expected pairs of hex digits in '{words[0]}'") from None
    commands: list[kv_pb2.Command] = []
    header: kv_pb2.SessionCommands | None = None
    for word in words:
        command = _command(word)
        if command.HasField("session_commands"):
            header = command.session_commands
        elif header is not None:
            header.count += 1
        commands.append(command)
    if not commands:
        raise Mistake("expected something to write, as put:KEY:VALUE")
    return kv_pb2.CommandBatch(commands=commands).SerializeToString()


def _command(word: str) -> kv_pb2.Command:
    name, *parts = word.split(":")
    values = [part.encode() for part in parts]
    match name, values:
        case "put", [key, value]:
            return kv_pb2.Command(put=kv_pb2.Put(key=key, value=value))
        case "delete", [key]:
            return kv_pb2.Command(delete_range=kv_pb2.DeleteRange(key=key))
        case "cas", [key, old, new]:
            return kv_pb2.Command(txn=_swap(key, old, new))
        case "compact", [revision]:
            wanted = number(revision.decode(), "a revision")
            return kv_pb2.Command(compact=kv_pb2.Compact(revision=wanted))
        case "open", []:
            return kv_pb2.Command(open_session=kv_pb2.OpenSession())
        case "close", [session]:
            closed = number(session.decode(), "a session")
            return kv_pb2.Command(close_session=kv_pb2.CloseSession(session_id=closed))
        case "session", [session, first, acknowledged]:
            header = kv_pb2.SessionCommands(
                session_id=number(session.decode(), "a session"),
                first_number=number(first.decode(), "the first command's number"),
                acknowledged=number(acknowledged.decode(), "what was acknowledged"),
            )
            command = kv_pb2.Command()
            command.session_commands.CopyFrom(header)
            return command
        case _:
            raise Mistake(
                f"'{word}' is nothing to write; expected put:KEY:VALUE, delete:KEY, "
                "cas:KEY:OLD:NEW, compact:REVISION, open, close:ID, session:ID:N:A"
            )


def _swap(key: bytes, old: bytes, new: bytes) -> kv_pb2.Txn:
    compare = kv_pb2.Compare(key=key, result=kv_pb2.Compare.EQUAL)
    if old:
        compare.value = old
    else:
        compare.version = 0
    put = kv_pb2.Operation(put=kv_pb2.Put(key=key, value=new))
    return kv_pb2.Txn(compare=[compare], success=[put])


def count_of(batch: bytes) -> int:
    """How many commands there are. Raises :class:`Mistake`."""
    try:
        return len(kv_pb2.CommandBatch.FromString(batch).commands)
    except DecodeError:
        raise Mistake("that is no batch of commands") from None


def words(batch: bytes) -> str:
    """A batch, as :func:`parse` reads it if it can be said so, else ``hex:``."""
    try:
        said = list(_words(kv_pb2.CommandBatch.FromString(batch).commands))
        if said and parse(said) == batch and not any(" " in word for word in said):
            return " ".join(said)
    except (DecodeError, Mistake, UnicodeDecodeError):
        pass
    return f"hex:{batch.hex()}"


def describe(batch: bytes) -> str:
    """The same for people, who cannot read ``hex:``."""
    try:
        return " ".join(_words(kv_pb2.CommandBatch.FromString(batch).commands))
    except (DecodeError, UnicodeDecodeError):
        return f"{len(batch)} bytes"


def describe_result(result: kv_pb2.Result) -> str:
    """What a command came to."""
    match result.WhichOneof("result"):
        case "error":
            return result.error.code
        case "put":
            return f"revision {result.put.revision}"
        case "delete_range":
            return f"{result.delete_range.deleted} deleted"
        case "txn":
            return "done" if result.txn.succeeded else "not done"
        case "session":
            return f"session {result.session.session_id}"
        case kind:
            return str(kind)


def _words(commands: Sequence[kv_pb2.Command]) -> Iterator[str]:
    for command in commands:
        match command.WhichOneof("command"):
            case "put":
                yield f"put:{command.put.key.decode()}:{command.put.value.decode()}"
            case "delete_range":
                yield f"delete:{command.delete_range.key.decode()}"
            case "txn":
                yield _swap_words(command.txn)
            case "compact":
                yield f"compact:{command.compact.revision}"
            case "open_session":
                yield "open"
            case "close_session":
                yield f"close:{command.close_session.session_id}"
            case "session_commands":
                header = command.session_commands
                yield (
                    f"session:{header.session_id}:{header.first_number}:"
                    f"{header.acknowledged}"
                )
            case kind:
                yield str(kind).replace("_", "-")


def _swap_words(txn: kv_pb2.Txn) -> str:
    if len(txn.compare) != 1 or len(txn.success) != 1 or txn.failure:
        return "txn"
    compare, put = txn.compare[0], txn.success[0].put
    old = compare.value.decode()
    return f"cas:{compare.key.decode()}:{old}:{put.value.decode()}"
