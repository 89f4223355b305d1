"""Pictures that networks make, beside what they were given."""

import html
import re
from collections.abc import Mapping, Sequence

import pandas as pd

from ..errors import UsageError
from .look import Html, captioned, label


def show_pictures(
    rows: pd.DataFrame, *, by: str, given: str, alt: str, caption: str, names: Mapping[str, str] | None = None
) -> Html:
    """A grid of pictures: a row a photograph, a column what is given and one for what is made by each of ``by``.

    Args:
        rows: of the probe ``examples``: ``name``, ``given``, ``made`` (JPEG files in Base64), and the column ``by``.
        given: what stands above the column of what is given.
        alt: what the figure shows, for who does not see it.
        caption: what is drawn.
        names: of the photographs, in words.

    Raises:
        UsageError: a picture is none.
    """
    columns = list(dict.fromkeys(rows[by])) if len(rows) else []
    heads = "".join(f"<span>{html.escape(text)}</span>" for text in (given, *map(label, columns)))
    cells = []
    for name, own in rows.groupby("name", sort=False) if len(rows) else ():
        called = (names or {}).get(str(name), str(name))
        made = own.drop_duplicates(by).set_index(by)["made"]
        pictures: Sequence[tuple[str, str]] = [(given, own["given"].iloc[0]), *((label(c), made[c]) for c in columns)]
        cells += [_picture(content, f"{called}, {what}") for what, content in pictures]
    grid = f'<div class="nc-pictures" style="--columns: {1 + len(columns)}">{heads}{"".join(cells)}</div>'
    body = f'<div role="group" aria-label="{html.escape(alt)}">{grid}</div>'
    return Html(captioned(body if cells else "", caption))


def _picture(content: str, alt: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9+/]+=*", content):
        raise UsageError(f"{alt}: a picture is a file in Base64, got {content[:20]!r}")
    return f'<img src="data:image/jpeg;base64,{content}" alt="{html.escape(alt)}">'
