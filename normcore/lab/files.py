"""Files: reading them, and writing them so that nothing half-written is ever left under a final name."""

import errno
import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from .errors import LabError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML was built with it: ten times faster


DIGEST = "digest"  # the field of a file that has the hash of all others


#: the beginning of a tag: no name and no text that is read from a file has one, since pages are made of them
MARKUP = re.compile("<[a-zA-Z/!?]")


def marked_up(value: Any, place: tuple[int | str, ...] = ()) -> tuple[int | str, ...] | None:
    """Where a value of mappings and lists first has HTML in a name or a text, or None."""
    if isinstance(value, str):
        return place if MARKUP.search(value) else None
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        if any(MARKUP.search(str(name)) for name in value):
            return place
        inside = value.items()
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    return next((at for name, v in inside if (at := marked_up(v, (*place, name))) is not None), None)


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON, or has HTML in a name or a text.
        RecursionError: a nesting without end.
    """
    value = json.loads(text)
    place = marked_up(value) if re.search(r"<|\\u003c", text, re.IGNORECASE) else None
    if place is not None:
        raise ValueError(f"HTML in a name or a text: {', '.join(map(str, place))}")
    return value


def digest(record: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of all that a record says but for its digest, by which a change of its file is seen."""
    said = {name: value for name, value in record.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Within the block no other process holds the lock of this file. A file system may have no locks: then another one
    may be at the same work, which it does alike, and what is written last replaces the other's as a whole.

    Args:
        timeout: seconds to wait for the lock; -1, for ever.

    Raises:
        filelock.Timeout: another process held it all the while.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        warnings.warn(
            f"{path.parent} is on a file system without locks, so that two processes may do the same work; name "
            "another folder with NORMCORE_CACHE",
            stacklevel=3,
        )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that takes its place when the block ends well, and is gone if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are for their owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_yaml(path: Path, schema: Any = Any) -> Any:
    """What a YAML file says, as plain values.

    Args:
        schema: what it may say, a type or a pydantic model.

    Raises:
        LabError: it is no YAML, or says something else; the file, the line, and what is expected there.
    """
    content = _content(path)
    try:
        said = yaml.load(content, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise LabError(f"{path}{at}: not YAML ({getattr(error, 'problem', None) or error})") from error
    except (ValueError, RecursionError) as error:  # a date that there is none of; a nesting without end
        raise LabError(f"{path}: not YAML ({error})") from error
    try:
        TypeAdapter(schema).validate_python(said, strict=True)
    except ValidationError as error:
        line = _line(content, error.errors()[0]["loc"])
        raise LabError(f"{path}, line {line}: {first_error(error)}") from error
    if (place := marked_up(said)) is not None:
        raise LabError(f"{path}, line {_line(content, place)}: HTML has no place here; write it as Markdown")
    return said


def first_error(error: ValidationError) -> str:
    """The first of what is wrong: where, and what is expected there."""
    first = error.errors()[0]
    where = ", ".join(map(str, first["loc"]))
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """As :func:`write_json`, with a digest."""
    write_json(path, {**record, DIGEST: digest(record)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What :func:`write_sealed` wrote.

    Raises:
        LabError: it is something else, or was changed.
    """
    try:
        said = parse_json(_content(path))
    except (ValueError, RecursionError) as error:
        raise LabError(f"{path}: not JSON ({error}); measure it again") from error
    if not isinstance(said, dict) or said.get(DIGEST) != digest(said):
        raise LabError(f"{path} is not as it was written: its digest is another one, or lacks; measure it again")
    return {name: value for name, value in said.items() if name != DIGEST}


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LabError(f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start})") from error


def _line(content: str, place: tuple[int | str, ...]) -> int:
    """The line of a YAML file, from 1 on, where what is at this place begins, or would."""
    node = yaml.compose(content, Loader=_LOADER)
    line: int = node.start_mark.line if node else 0
    for name in place:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(name)]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(name, int):
            node = node.value[name]
            line = node.start_mark.line
        else:
            break
    return line + 1


def write_text(path: Path, text: str) -> None:
    """Write the file whole or not at all; a file that has this text already is left untouched."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """As :func:`write_text`, with a list of plain values on one line so that files stay readable."""
    write_text(path, _compact(value) + "\n")


def _compact(value: Any, indent: str = "") -> str:
    inner = indent + " "
    if isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(str(k))}: {_compact(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    return json.dumps(value, allow_nan=False)
