"""What the pages do not use is taken out of the site."""

from pathlib import Path

from normcore.lab.book.lighten import lighten

ICONS = (
    '/*! */var x={bars:[448,512,["navicon"],"f0c9","M0 96"],"file-pdf":[384,512,[],"f1c1","M1 2"],'
    'unused:[1,1,[],"f0","M9"]};'
)
PAGE = """<html><head>
    <script src="../_static/searchtools.js"></script>
    <script src="../searchindex.js"></script>
    <script src="../_static/doctools.js"></script></head>
<body><i class="fa-solid fa-bars fa-lg"></i> <i class="fas fa-file-pdf"></i>
<p class="fa-unused">no icon</p></body></html>"""


def test_icons_search_and_maps(tmp_path: Path) -> None:
    scripts = tmp_path / "_static" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "fontawesome.js").write_text(ICONS)
    (scripts / "theme.js.map").write_text("{}")
    (tmp_path / "runs").mkdir()
    for name in ("runs/page.html", "search.html"):
        (tmp_path / name).write_text(PAGE)
    for _ in range(2):  # the second time nothing is left to do
        lighten(tmp_path)
        script = (scripts / "fontawesome.js").read_text()
        assert '"bars":[448,512,"M0 96"]' in script
        assert '"file-pdf":[384,512,"M1 2"]' in script
        assert "unused" not in script
        page = (tmp_path / "runs" / "page.html").read_text()
        assert "searchtools" not in page
        assert "searchindex" not in page
        assert "doctools" in page
        assert (tmp_path / "search.html").read_text() == PAGE
        assert not list(tmp_path.rglob("*.map"))
