"""What the pages do not use is taken out of the site, and what they have is reached."""

from pathlib import Path

from normcore.lab.book.finish import finish

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
        finish(tmp_path)
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


def test_what_scrolls_can_be_focused_and_what_folds_has_a_name(tmp_path: Path) -> None:
    plain, linked = (
        '<table class="table"><tr><td>1</td></tr></table>',
        '<table class="table"><td><a href="#">1</a></td></table>',
    )
    fold = '<details><summary><span class="toctree-toggle"></span></summary></details>'
    page = tmp_path / "page.html"
    page.write_text(plain + linked + fold)
    for _ in range(2):
        finish(tmp_path)
        assert page.read_text() == (
            plain.replace("<table", '<table tabindex="0"')
            + linked
            + fold.replace("<summary>", '<summary aria-label="the pages below">')
        )


def test_figures_have_a_number_that_is_their_address(tmp_path: Path) -> None:
    figure = '<figure class="nc-figure" data-curves="{}"><svg></svg><figcaption>A line.</figcaption></figure>'
    page = tmp_path / "page.html"
    page.write_text(figure + figure)
    for _ in range(2):
        finish(tmp_path)
        assert page.read_text().count('<figure id="figure-1" class="nc-figure" data-curves="{}">') == 1
        assert '<figcaption><a class="nc-number" href="#figure-2">Figure 2</a> A line.' in page.read_text()


def test_a_number_and_its_percent_sign_stay_together(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>an interval of 95 % at 5% or a share (%)</p>", encoding="utf-8")
    finish(tmp_path)
    assert page.read_text(encoding="utf-8") == "<p>an interval of 95\N{NO-BREAK SPACE}% at 5% or a share (%)</p>"


def test_what_moves_tabs_is_loaded_by_pages_with_tabs(tmp_path: Path) -> None:
    script = (
        '<script data-sd-tabs-storage-prefix="sphinx-design-tab-id-" src="_static/design-tabs.js?v=fcb327ea"></script>'
    )
    for name, text in {"plain": "", "tabs": '<div class="sd-tab-set">'}.items():
        (tmp_path / f"{name}.html").write_text(script + text)
    finish(tmp_path)
    assert (tmp_path / "plain.html").read_text() == ""
    assert (tmp_path / "tabs.html").read_text() == script + '<div class="sd-tab-set">'


def test_mathjax_is_loaded_by_pages_with_a_formula_and_no_font_of_icons_is(tmp_path: Path) -> None:
    head = (
        '<script>window.MathJax = {"options": {}}</script>\n'
        '<script defer="defer" src="_static/mathjax/tex-chtml.js?v=2"></script>'
        '<link rel="preload" as="font" href="_static/vendor/fontawesome/webfonts/fa-solid-900.woff2">'
    )
    for name, text in {"plain": "", "formula": '<span class="math notranslate fa-fw">'}.items():
        (tmp_path / f"{name}.html").write_text(head + text)
    fonts, styles = tmp_path / "_static" / "vendor" / "fontawesome" / "webfonts", tmp_path / "_static" / "styles"
    fonts.mkdir(parents=True)
    styles.mkdir()
    (styles / "theme.css").write_text(
        '@font-face{font-family:Font Awesome\\ 6 Free;src:url(x.woff2)}.fa-bars{--fa:"\\f0c9";--fa--fa:"x"}'
        ".fa-fw{width:1em}"
    )
    finish(tmp_path)
    assert (tmp_path / "plain.html").read_text().strip() == ""
    assert "tex-chtml" in (tmp_path / "formula.html").read_text()
    assert "webfonts" not in (tmp_path / "formula.html").read_text()
    assert (styles / "theme.css").read_text() == ".fa-fw{width:1em}"
    assert not fonts.exists()


def test_styles_of_classes_that_nothing_names_go(tmp_path: Path) -> None:
    (tmp_path / "_static").mkdir()
    (tmp_path / "page.html").write_text('<p class="here sm:wide">')
    (tmp_path / "_static" / "later.js").write_text('place.classList.add("made")')
    sheet = tmp_path / "_static" / "theme.css"
    sheet.write_text(
        "@charset 'utf-8';p{a:b}/* note */.here,.gone>p{a:b}.made:not(.gone,.lost){a:b}.gone{a:b}.sm\\:wide{a:b}"
        "@media print{.gone{a:b}}@media screen{.here{a:b}.gone{a:b}}@keyframes spin{to{a:b}}.here:is(.a,.made){a:b}"
    )
    for _ in range(2):
        finish(tmp_path)
        assert sheet.read_text() == (
            "@charset 'utf-8';p{a:b}.here{a:b}.made:not(.gone,.lost){a:b}.sm\\:wide{a:b}"
            "@media screen{.here{a:b}}@keyframes spin{to{a:b}}"
        )


def test_variables_that_nothing_asks_for_go(tmp_path: Path) -> None:
    (tmp_path / "_static").mkdir()
    (tmp_path / "page.html").write_text('<p style="color: var(--inline)">')
    sheet = tmp_path / "_static" / "theme.css"
    sheet.write_text("p{--asked:1;--chain:var(--end);--end:2;--inline:3;color:var(--asked, red)}")
    for _ in range(2):
        finish(tmp_path)
        assert sheet.read_text() == "p{--asked:1;--inline:3;color:var(--asked, red)}"


def test_the_numbers_of_a_figure_are_a_file_beside_the_page(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    page = tmp_path / "runs" / "page.html"
    page.write_text('<a download="figure.csv" href="data:text/csv;base64,YSxiCjEsMgo=">numbers</a>')
    for _ in range(2):
        finish(tmp_path)
        (file,) = tmp_path.rglob("*.csv")
        assert file.read_text() == "a,b\n1,2\n"
        assert page.read_text() == f'<a download="figure.csv" href="../_static/csv/{file.name}">numbers</a>'
