"""One's own layer in place of a name: ``mine.py:MyNorm`` or ``package.module:MyNorm``."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn

__all__ = ["load"]


def load(reference: str) -> Callable[..., nn.Module]:
    """The class or function that a reference names; the module is executed.

    Args:
        reference: ``mine.py:MyNorm``, a file and a name in it, or ``package.module:MyNorm``. What it names makes the
            layer from the number of channels, and from options by keyword.

    Raises:
        ValueError: there is no such file, module or name, it raises when it is imported, or the name is neither a
            class of layers nor a function. The cause is chained.

    >>> load("torch.nn:Identity")(3)
    Identity()
    """
    where, _, name = reference.rpartition(":")
    if not where or not name.isidentifier():
        raise ValueError(f"a layer of one's own is file.py:Name or package.module:Name, got {reference!r}")
    module = _module(where)
    make = getattr(module, name, None)
    if inspect.isfunction(make) or (inspect.isclass(make) and issubclass(make, nn.Module)):
        return make
    if make is not None:
        raise ValueError(f"{name} in {where} is neither a class of torch.nn.Module nor a function")
    own = sorted(n for n, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
    raise ValueError(f"there is no {name} in {where}; it has {', '.join(own) or 'nothing of its own'}")


def _module(where: str) -> ModuleType:
    path = Path(where)
    if path.suffix == ".py" and not path.is_file():
        raise ValueError(f"there is no file {where} (looked in {Path.cwd()})")
    try:
        return _from_file(path) if path.suffix == ".py" else importlib.import_module(where)
    except Exception as error:  # whatever somebody's module raises
        raise ValueError(f"{where} cannot be imported: {in_words(error)}") from error


def in_words(error: Exception) -> str:
    """What somebody's code raised, in one line."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"


def _from_file(path: Path) -> ModuleType:
    """The file as a module under its own name with its place, so that two files of one name are two modules, and what
    they define can be pickled."""
    full = path.resolve()
    name = f"normcore.own:{full}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
