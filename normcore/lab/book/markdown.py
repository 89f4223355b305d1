"""Pieces of Markdown for the generated parts of the book."""

import html
from collections.abc import Iterable, Mapping, Sequence


def row(cells: Iterable[object]) -> str:
    """A row of a table."""
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def table(head: Sequence[str], rows: Iterable[Iterable[object]], align: str = "") -> str:
    """A table; ``align`` has an l or r for each column, l where it is too short."""
    ruler = [{"r": "---:"}.get(a, "---") for a in align.ljust(len(head), "l")]
    return "\n".join([row(head), row(ruler), *(row(cells) for cells in rows)])


def bullets(items: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {item}" for item in items)


def div(name: str, content: str) -> str:
    """Content of a class that ``book/_assets/book.css`` gives its look."""
    return f"::::{{div}} {name}\n{content}\n::::"


def raw(markup: str) -> str:
    """HTML as it is."""
    return f"```{{raw}} html\n{markup}\n```"


def badge(color: str, words: str) -> str:
    """A coloured label."""
    return f"{{bdg-{color}}}`{words}`"


def form(fields: str, what: str, none: str) -> str:
    """Choices that ``book/_assets/select.js`` brings to life; without it they are not shown.

    Args:
        fields: of :func:`choice`.
        what: is counted, such as ``statements``.
        none: what is said where nothing fits.
    """
    return (
        f'<form class="nc-select" data-what="{html.escape(what)}" data-none="{html.escape(none)}" hidden>'
        f'{fields}<button type="reset">all</button><output aria-live="polite"></output></form>\n'
        '<script src="_static/select.js" defer></script>'
    )


def choice(name: str, asks: str, every: str, answers: Mapping[str, str]) -> str:
    """One question of a form.

    Args:
        every: what stands for no answer.
        answers: value -> words.
    """
    options = "".join(f'<option value="{html.escape(v)}">{html.escape(words)}</option>' for v, words in answers.items())
    return (
        f'<label>{html.escape(asks)} <select name="{name}"><option value="">{html.escape(every)}</option>{options}'
        "</select></label>"
    )
