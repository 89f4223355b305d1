"""Pieces of Markdown for the generated parts of the book."""

from collections.abc import Iterable, Sequence


def row(cells: Iterable[object]) -> str:
    """A row of a table."""
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def table(head: Sequence[str], rows: Iterable[Iterable[object]], align: str = "") -> str:
    """A table; ``align`` has an l or r for each column, l where it is too short."""
    ruler = [{"r": "---:"}.get(a, "---") for a in align.ljust(len(head), "l")]
    return "\n".join([row(head), row(ruler), *(row(cells) for cells in rows)])


def raw(markup: str) -> str:
    """HTML as it is."""
    return f"```{{raw}} html\n{markup}\n```"


def badge(color: str, words: str) -> str:
    """A coloured label."""
    return f"{{bdg-{color}}}`{words}`"
