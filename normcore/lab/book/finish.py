"""A Sphinx extension: pages say what they are about where they are linked to, a built site is made lighter, and what
has no name for a screen reader or cannot be reached by keyboard gets one and can. Figures are numbered, and no line
begins with a percent sign.

Of the theme's icons (1.5 MB of script, 1 MB of fonts) those that the pages show stay, by a small script of the same
name, and of its styles (0.5 MB) those of classes and variables that something names; the numbers of figures are files
beside the pages; the index of the search is loaded by the page of the search alone, MathJax by pages with a formula,
what moves tabs by pages with tabs; maps of minified scripts go.
"""

import base64
import hashlib
import html
import itertools
import json
import os
import re
import shutil
from collections.abc import Container, Sequence, Set
from pathlib import Path
from typing import Any

from docutils import nodes

_CLASS = re.compile(r'<(?:i|span) class="[^"]*\bfa-[^"]*"')
_SEARCH = re.compile(r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>')
_MATHJAX = re.compile(
    r"\s*<script[^>]*>window\.MathJax = .*?</script>|\s*<script[^>]*mathjax/tex-chtml\.js[^>]*></script>"
)
_TABS = re.compile(r"\s*<script[^>]*design-tabs\.js[^>]*></script>")
_FONTS = re.compile(r'\s*<link rel="preload"[^>]*webfonts/[^>]*>')
_ICON_RULES = re.compile(r'@font-face\{[^}]*Font Awesome[^}]*\}|\.fa-[a-z0-9-]+\{--fa:"[^}]*\}')
_CSV = re.compile(r'href="data:text/csv;base64,([^"]*)"')
_COMMENT = re.compile(r"/\*(?!!).*?\*/", re.DOTALL)
_RULE = re.compile(r"([^{}]*)\{([^{}]*)\}")
_NO_RULE = re.compile(r"@(?:media|supports)[^{}]*\{\s*\}")
_VARIABLE = re.compile(r"(?<=[{;])\s*(--[\w-]+)\s*:[^;{}]*(?:;|(?=\}))")
_OF_CLASS = re.compile(r"\.(-?[A-Za-z_](?:[\w-]|\\.)*)")
_FIGURE = re.compile(r'<figure( class="nc-figure".*?)<figcaption>', re.DOTALL)
_TABLE = re.compile(r"<table((?: class| border)=.*?</table>)", re.DOTALL)
_PERCENT = re.compile(r"(?<=\d) (?=%)")
_SCRIPT = """/*! Icons of Font Awesome Free 6.5.2 by @fontawesome, https://fontawesome.com, CC BY 4.0
(https://fontawesome.com/license/free), Copyright 2024 Fonticons, Inc. */
(() => {
  const icons = %s;
  for (const place of document.querySelectorAll("i.fa-solid, i.fas, i.fa-regular, span.fa-solid")) {
    const name = [...place.classList].map((c) => c.slice(3)).find((c) => icons[c]);
    if (!name) continue;
    const [width, height, path] = icons[name];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const { name: key, value } of place.attributes) svg.setAttribute(key, value);
    svg.classList.add("svg-inline--fa");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-hidden", "true");
    svg.innerHTML = `<path fill="currentColor" d="${path}"></path>`;
    place.replaceWith(svg);
  }
})();
"""


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("html-page-context", _describe)
    app.connect("build-finished", lambda app, error: None if error else finish(Path(app.outdir)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _describe(app: Any, page: str, _: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """What a page says of itself where it is linked to (Open Graph): its title and its first paragraph."""
    if doctree is None:
        return
    first = next((" ".join(p.astext().split()) for p in doctree.findall(nodes.paragraph)), "")
    title = re.sub("<[^>]+>", "", str(context.get("title", page)))
    told = {"og:title": title, "og:type": "article", "og:site_name": app.config.project, "og:description": first[:200]}
    tags = "".join(f'<meta property="{name}" content="{html.escape(text)}">\n' for name, text in told.items() if text)
    context["metatags"] = f"{context.get('metatags', '')}\n{tags}"


def finish(site: Path) -> None:
    """Do it to a built site; once more changes nothing."""
    names: set[str] = set()
    words: set[str] = set()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        names |= {name for found in _CLASS.findall(text) for name in re.findall(r"\bfa-([a-z0-9-]+)", found)}
        needed = _FONTS.sub("", text)
        asked_for = (
            (_SEARCH, page.name == "search.html"),
            (_MATHJAX, 'class="math' in text),
            (_TABS, "sd-tab-set" in text),
        )
        for scripts, wanted in asked_for:
            needed = needed if wanted else scripts.sub("", needed)
        finished = _PERCENT.sub("\N{NO-BREAK SPACE}", _numbered(_reachable(needed)))
        finished = _with_numbers_beside(finished, page, site / "_static" / "csv")
        words |= set(re.findall(r"[\w-]+", finished))
        if finished != text:
            page.write_text(finished, encoding="utf-8")
    _shrink_icons(site / "_static" / "scripts" / "fontawesome.js", names)
    shutil.rmtree(site / "_static" / "vendor" / "fontawesome" / "webfonts", ignore_errors=True)
    for sheet in (site / "_static" / "styles").glob("*.css"):
        sheet.write_text(_ICON_RULES.sub("", sheet.read_text(encoding="utf-8")), encoding="utf-8")
    for script in (site / "_static").rglob("*.js"):
        words |= set(re.findall(r"[\w-]+", script.read_text(encoding="utf-8")))
    _write_needed(sorted((site / "_static").rglob("*.css")), words)
    for path in (site / "_static").rglob("*.map"):
        path.unlink()


def _reachable(text: str) -> str:
    """The theme's folds of the contents are named, and wide tables, which scroll, can be focused where nothing in them
    can."""
    named = text.replace("<summary><span", '<summary aria-label="the pages below"><span')
    return _TABLE.sub(lambda t: t[0] if "<a " in t[0] or "<button" in t[0] else f'<table tabindex="0"{t[1]}', named)


def _with_numbers_beside(text: str, page: Path, folder: Path) -> str:
    """The numbers that a page has in its links to CSV are files of their own."""

    def link(found: re.Match[str]) -> str:
        data = base64.b64decode(found[1])
        file = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return f'href="{Path(os.path.relpath(file, page.parent)).as_posix()}"'

    return _CSV.sub(link, text)


def _write_needed(paths: Sequence[Path], words: Set[str]) -> None:
    """Of style sheets what is needed: rules of classes that are named, variables that something asks for."""
    sheets = [_needed(path.read_text(encoding="utf-8"), words) for path in paths]
    while True:
        used = words | set(re.findall(r"var\(\s*(--[\w-]+)", "".join(sheets)))
        kept = [_asked_for(sheet, used) for sheet in sheets]
        if kept == sheets:
            break
        sheets = kept
    for path, sheet in zip(paths, sheets, strict=True):
        path.write_text(sheet, encoding="utf-8")


def _asked_for(sheet: str, names: Container[str]) -> str:
    """Without the variables that are none of these."""
    return _VARIABLE.sub(lambda v: v[0] if v[1] in names else "", sheet)


def _needed(sheet: str, words: Container[str]) -> str:
    """The rules of a style sheet but for those of a class that none of these words is."""

    def one(rule: re.Match[str]) -> str:
        if rule[1].lstrip().startswith("@"):
            return rule[0]
        selectors = [s for s in re.split(r",(?![^(]*\))", rule[1]) if there(re.sub(r":not\([^)]*\)", "", s))]
        return f"{','.join(selectors)}{{{rule[2]}}}" if selectors else ""

    def there(selector: str) -> bool:
        named = (part for name in _OF_CLASS.findall(selector) for part in re.findall(r"[\w-]+", name))
        return all(part in words for part in named)

    return _NO_RULE.sub("", _RULE.sub(one, _COMMENT.sub("", sheet)))


def _numbered(text: str) -> str:
    """The figures of a page have a number, which is their address."""
    numbers = itertools.count(1)

    def one(found: re.Match[str]) -> str:
        name = f"figure-{(number := next(numbers))}"
        link = f'<a class="nc-number" href="#{name}">Figure {number}</a>'
        return f'<figure id="{name}"{found[1]}<figcaption>{link} '

    return _FIGURE.sub(one, text)


def _shrink_icons(script: Path, names: set[str]) -> None:
    if script.is_file():
        source = script.read_text(encoding="utf-8")
        icons = {name: icon for name in sorted(names) if (icon := _icon(source, name))}
        if icons:
            script.write_text(_SCRIPT % json.dumps(icons, separators=(",", ":")), encoding="utf-8")


def _icon(source: str, name: str) -> tuple[int, int, str] | None:
    """Width, height and path of an icon in the source of Font Awesome's script; None where it has none so called."""
    quoted = re.escape(name)
    found = re.search(rf'[{{,](?:"{quoted}"|{quoted}):\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","([^"]+)"\]', source)
    return (int(found[1]), int(found[2]), found[3]) if found else None
