"""What is trained: data sets, networks, and what a network is trained to do."""

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import unknown

if TYPE_CHECKING:
    from .task import Task

#: name -> module and class, imported when a run asks for it
TASKS = {
    "images": ("images", "ImageClassification"), "text": ("text", "NextCharacter"),
    "lines": ("lines", "NextCharacterOfLine"), "detection": ("detection", "Detection"),
    "style": ("pixels", "StyleTransfer"), "super_resolution": ("pixels", "SuperResolution"),
    "adversarial": ("adversarial", "Adversarial"),
}  # fmt: skip


def task_class(name: str) -> "type[Task]":
    """The task of this name; an unknown one is a :class:`UsageError`."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    module, of = TASKS[name]
    found: type[Task] = getattr(import_module(f".{module}", __name__), of)
    return found
