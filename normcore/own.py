"""One's own layer in place of a name: ``mine.py:MyNorm`` or ``package.module:MyNorm``.

A reference can be pinned to the source that it names, ``mine.py:MyNorm@877a4471``: it then stands for that very source,
and nothing else is loaded in its place. To read a pinned reference executes nothing.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn

__all__ = ["load", "pin"]


def is_own(name: str) -> bool:
    """Whether a name refers to a layer of one's own."""
    return ":" in name


def pin(reference: str) -> str:
    """The reference with the hash of its source, 8 hexadecimal digits; one that has it stays as it is.

    Raises:
        ValueError: it is no reference, or there is no such file or module.
    """
    where, name, digest = _parts(reference)
    return reference if digest else f"{where}:{name}@{_digest(where)}"


def short(reference: str) -> str:
    """A pinned reference without the place: what it computes does not depend on where its file lies.

    >>> short("somewhere/mine.py:MyNorm@877a4471")
    'MyNorm@877a4471'
    """
    return reference.rpartition(":")[2]


def called(reference: str) -> str:
    """What a reference names, without the place and the hash.

    >>> called("somewhere/mine.py:MyNorm@877a4471")
    'MyNorm'
    """
    return short(reference).partition("@")[0]


def load(reference: str) -> Callable[..., nn.Module]:
    """The class or function that a reference names; the module is executed.

    Args:
        reference: ``mine.py:MyNorm``, a file and a name in it, or ``package.module:MyNorm``, pinned or not. What it
            names makes the layer from the number of channels, and from options by keyword.

    Raises:
        ValueError: there is no such file, module or name, it raises when it is imported, the name is neither a
            class of layers nor a function, or the source is not the one that it is pinned to. The cause is chained.

    >>> load("torch.nn:Identity")(3)
    Identity()
    """
    where, name, digest = _parts(reference)
    if digest and digest != _digest(where):
        raise ValueError(f"{where} has changed: {name}@{digest} was asked for, and it is {name}@{_digest(where)} now")
    module = _module(where)
    make = getattr(module, name, None)
    if inspect.isfunction(make) or (inspect.isclass(make) and issubclass(make, nn.Module)):
        return make
    if make is not None:
        raise ValueError(f"{name} in {where} is neither a class of torch.nn.Module nor a function")
    own = sorted(n for n, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
    raise ValueError(f"there is no {name} in {where}; it has {', '.join(own) or 'nothing of its own'}")


def upwards(where: str) -> Path | None:
    """A path as it is found from here or from the nearest folder above: a notebook is opened in its own folder, and run
    from the repository."""
    here = Path.cwd()
    return next((folder / where for folder in (here, *here.parents) if (folder / where).exists()), None)


def _parts(reference: str) -> tuple[str, str, str]:
    """(file or module, name, hash of the source or nothing)."""
    where, _, name = reference.rpartition(":")
    name, _, digest = name.partition("@")
    if not where or not name.isidentifier():
        raise ValueError(f"a layer of one's own is file.py:Name or package.module:Name, got {reference!r}")
    return where, name, digest


def _digest(where: str) -> str:
    """Of the source of a file or module."""
    return hashlib.sha256(_source(where).read_bytes()).hexdigest()[:8]


def _source(where: str) -> Path:
    if where.endswith(".py"):
        place = upwards(where)
        if place is None or not place.is_file():
            raise ValueError(f"there is no file {where} (looked in {Path.cwd()} and the folders above)")
        return place
    try:
        spec = importlib.util.find_spec(where)
    except Exception as error:  # whatever the package around it raises
        raise ValueError(f"{where} cannot be imported: {in_words(error)}") from error
    if spec is None or not spec.has_location or not spec.origin:
        raise ValueError(f"there is no module {where} with a source (a file is named with its ending, {where}.py)")
    return Path(spec.origin)


def _module(where: str) -> ModuleType:
    source = _source(where)
    try:
        return _from_file(source) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:  # whatever somebody's module raises
        raise ValueError(f"{where} cannot be imported: {in_words(error)}") from error


def in_words(error: Exception) -> str:
    """What somebody's code raised, in one line."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"


def _from_file(path: Path) -> ModuleType:
    """The file as a module under a name of its place and its source, so that two files of one name are two modules, a
    file that has changed is loaded anew, and what they define can be pickled."""
    full = path.resolve()
    name = f"normcore.own:{full}@{_digest(str(full))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # from the source itself: bytecode is told from older one by the second and the size, which an edit may keep
        exec(compile(full.read_bytes(), str(full), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
