"""The book as a reader gets it: built with warnings as errors, then read in a real browser."""

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page, Request, sync_playwright

from normcore import NORMS

from . import offline

pytestmark = pytest.mark.ci

ROOT = Path(__file__).resolve().parent.parent


def table_of_contents() -> list[str]:
    """Every page, in the order of the book."""

    def files(entry: dict[str, Any]) -> Iterator[str]:
        yield from [entry["file"]] if "file" in entry else []
        if entry.get("glob") == "statements/*":
            yield from (f"statements/{claim['id'].lower()}" for claim in claims["claims"])
        for part in entry.get("parts", []) + entry.get("chapters", []) + entry.get("sections", []):
            yield from files(part)

    claims = yaml.safe_load((ROOT / "book" / "claims.yml").read_text(encoding="utf-8"))
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *files(toc)]


PAGES = table_of_contents()
#: a page of each kind
KINDS = [
    "index", "choose", "method", "claims", "explorer", "compare", "statements/s0-14", "speed", "catdog", "newcomers",
    "api", "runs/large_rates", "runs/compare", "normalizers/bn",
]  # fmt: skip
# Of the pages of statements some: an "or", several parts, a definition, one that nothing has tested.
READ = [p for p in PAGES if not p.startswith("statements/") or p[-5:] in ("s0-08", "s0-14", "s0-15", "s1-05")]


@pytest.fixture(scope="module")
def clone() -> Path:
    """What a new clone of this working tree holds, and nothing else."""
    folder = ROOT / "_build" / "test" / "clone"
    shutil.rmtree(folder, ignore_errors=True)
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def tracked() -> list[str]:
    """The files of the working tree that git has or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if (ROOT / name).is_file()]


def contents(clone: Path) -> dict[str, bytes]:
    """The results, the registry and the notebooks, file by file."""
    files = [path for folder in ("data", "notebooks") for path in (clone / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(clone)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def sources(clone: Path) -> dict[str, bytes]:
    """What the book is made from, before it is."""
    return contents(clone)


@pytest.fixture(scope="module")
def bare(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of somebody in the clone whose home and caches are empty and who has no data sets."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NORMCORE_", "XDG_", "HF_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    own = {"HOME": str(tmp_path_factory.mktemp("home")), "PATH": path, "PYTHONPATH": str(clone)}
    return {**env, **own, "NORMCORE_PARENT": str(os.getpid())}  # a build ends with the tests


@pytest.fixture(scope="module")
def site(clone: Path, sources: dict[str, bytes], bare: dict[str, str]) -> Path:
    """The book, built as `make book` does from the published results alone, on a machine that reaches no other."""
    command = ["snakemake", "--profile", "profiles/default", "--config", "profile=published"]
    done = offline.run(command, cwd=clone, env=bare)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return clone / "_build" / "html"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The book from a server on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None: ...  # a reader who leaves before all has come

    server = Server(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the system's, or Playwright's own."""
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        path = found or playwright.chromium.executable_path
        if not Path(path).is_file():
            if os.environ.get("NORMCORE_REQUIRE_BROWSER"):
                pytest.fail("no Chromium is installed, and NORMCORE_REQUIRE_BROWSER is set")
            pytest.skip("no Chromium is installed: apt-get install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Watched:
    """A page, and all that it asked for and complained of."""

    def __init__(self, browser: Browser, width: int, scheme: Any) -> None:
        view: Any = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=view, color_scheme=scheme, reduced_motion="reduce")
        self.page: Page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in {"error", "warning"} else None)
        self.page.on("requestfailed", self._failed)

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # by a reader who goes on to the next page
            self.complaints.append(f"failed: {request.url}")

    def outside(self, address: str) -> list[str]:
        return [url for url in self.asked if not url.startswith((address, "file:", "data:", "blob:"))]


Reader = Callable[..., Watched]


@pytest.fixture
def reader(browser: Browser) -> Iterator[Reader]:
    opened: list[Watched] = []

    def open_one(width: int = 1280, scheme: Any = "light") -> Watched:
        opened.append(Watched(browser, width, scheme))
        return opened[-1]

    yield open_one
    for watched in opened:
        watched.context.close()


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[Path, BeautifulSoup]:
    """Every page of the book by its file."""
    files = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in files}


@pytest.mark.parametrize("way", ["namespace", "guard"])
def test_the_build_reaches_no_machine_but_this_one(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "guard":
        monkeypatch.setattr(offline, "namespace", lambda: [])
    elif not offline.namespace():
        pytest.skip("no network namespace may be made here")
    code = """
import errno, socket
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), 5).close()
try:
    socket.create_connection(("192.0.2.1", 80), 5)
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    done = offline.run([sys.executable, "-c", code], tmp_path, os.environ)
    assert (done.stdout.strip(), done.returncode) == ("ENETUNREACH", 0), done.stderr


def test_a_build_leaves_what_it_is_made_from_alone(site: Path, clone: Path, sources: dict[str, bytes]) -> None:
    assert len(sources) > 100
    assert contents(clone) == sources


def test_data_that_cannot_be_had_are_asked_for_in_one_sentence_that_names_the_notebook(
    clone: Path, bare: dict[str, str], tmp_path: Path
) -> None:
    command = [
        "-m",
        "normcore.lab.cli",
        "run",
        "alexnet-cifar100",
        "--profile",
        "quick",
        "--fresh",
        "--to",
        str(tmp_path),
    ]
    env = {**bare, "NORMCORE_RESULTS": str(tmp_path / "results")}
    done = offline.run([sys.executable, *command], cwd=clone, env=env)
    assert done.returncode == 1, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("alexnet_cifar100.ipynb: cifar100 is not in NORMCORE_DATA (not set)")


def test_every_notebook_has_a_page(site: Path) -> None:
    for notebook in (ROOT / "notebooks").rglob("*.ipynb"):
        folder = "runs" if notebook.parent.name == "notebooks" else notebook.parent.name
        assert f"{folder}/{notebook.stem}" in PAGES
    assert all((site / f"{page}.html").is_file() for page in PAGES)


def test_the_normalizers_are_in_the_order_in_which_they_are_taught() -> None:
    names = [name for name in NORMS if name != "none"]
    assert [page.partition("/")[2] for page in PAGES if page.removeprefix("normalizers/") in names] == names


def test_every_normalizer_is_reached_from_the_overview(site: Path) -> None:
    overview = (site / "normalizers" / "overview.html").read_text(encoding="utf-8")
    links = {str(tag["href"]) for tag in BeautifulSoup(overview, "html.parser").select("article a[href]")}
    assert {f"{name}.html" for name in NORMS if name != "none"} <= links


def test_no_link_inside_the_book_is_broken(site: Path, parsed: dict[Path, BeautifulSoup]) -> None:
    anchors = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in parsed.items()}
    broken = []
    for path, soup in parsed.items():
        for tag in soup.find_all(href=True):
            link = urlsplit(str(tag["href"]))
            chosen = "=" in link.fragment  # a choice, which a script reads
            if link.scheme or link.netloc or chosen or path.name in {"search.html", "genindex.html"}:
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            lost = target in anchors and link.fragment and unquote(link.fragment) not in anchors[target]
            if not target.exists() or lost:
                broken.append(f"{path.relative_to(site)} -> {tag['href']}")
    assert not broken


def test_the_verdict_stands_beside_every_statement_that_a_page_names(parsed: dict[Path, BeautifulSoup]) -> None:
    named = 0
    for path, soup in parsed.items():
        article = soup.find("article")
        for link in article.find_all("a", string=re.compile(r"^[SN]\d-\d\d$")) if article else ():
            row, after = link.find_parent("tr"), link.find_next_sibling("span")
            told = (row and row.select_one(".sd-badge")) or (after and "nc-badge" in after.get("class", ()))
            assert told or link.find_parent(class_="prev-next-area"), f"{path.name}: {link}"
            named += 1
    assert named > 500


def test_a_page_says_what_it_is_about_where_it_is_linked_to(parsed: dict[Path, BeautifulSoup], site: Path) -> None:
    head = parsed[site / "choose.html"].head
    assert head
    told = {str(tag["property"]): str(tag["content"]) for tag in head.find_all("meta", property=True)}
    assert told["og:title"] == "Which normalizer?"
    assert told["og:description"].startswith("Say what you have")


def test_every_picture_says_what_it_shows(parsed: dict[Path, BeautifulSoup]) -> None:
    pictures = 0
    for path, soup in parsed.items():
        for image in soup.find_all("img"):
            assert str(image.get("alt", "")).strip(), f"{path.name}: {image}"
            assert not str(image["alt"]).endswith((".png", ".svg")), f"{path.name}: a file's name is no description"
        for drawing in soup.find_all("svg"):
            # an <svg> is described by itself or by what holds it, or is no more than an ornament
            around = [drawing, *drawing.parents]
            described = any(tag.get("aria-label") or tag.get("aria-hidden") == "true" for tag in around)
            assert described, f"{path.name}: a drawing without a description"
            pictures += 1
    assert pictures > 4


def test_nothing_is_loaded_from_another_host(parsed: dict[Path, BeautifulSoup]) -> None:
    for path, soup in parsed.items():
        loaded = [tag.get("src") or "" for tag in soup.find_all(["script", "img", "iframe"])]
        loaded += [tag["href"] for tag in soup.find_all("link", rel=["stylesheet", "preload", "icon"])]
        assert not [url for url in loaded if str(url).startswith(("http:", "https:", "//"))], path.name


@pytest.mark.browser
@pytest.mark.parametrize(
    ("page", "origin", "width", "scheme"),
    [*((page, "server", 1280, "light") for page in READ), *((page, "file", 390, "dark") for page in KINDS)],
)
def test_a_page_reads_well(
    page: str, origin: str, width: int, scheme: str, site: Path, address: str, reader: Reader
) -> None:
    watched = reader(width, scheme)
    base = site.as_uri() if origin == "file" else address
    watched.page.goto(f"{base}/{page}.html")
    watched.page.evaluate("Promise.all([document.fonts.ready, window.MathJax?.startup?.promise])")  # formulas are set
    assert watched.outside(address) == []
    assert watched.complaints == []
    over = watched.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 0, f"the page scrolls sideways by {over} px"
    cut = "(tables) => tables.filter((t) => t.checkVisibility() && t.scrollWidth > t.clientWidth + 1).length"
    assert watched.page.locator(".nc-read").evaluate_all(cut) == 0, "a table of what is drawn is cut"
    assert watched.page.evaluate("document.documentElement.dataset.theme") == scheme
    assert watched.page.locator("article h1").first.is_visible()


@pytest.mark.browser
def test_pages_without_formulas_are_light(site: Path, reader: Reader) -> None:
    weights = {}
    for page in READ:
        if 'class="math' not in (site / f"{page}.html").read_text(encoding="utf-8"):
            watched = reader()
            watched.page.goto(f"{site.as_uri()}/{page}.html")
            files = {Path(unquote(urlsplit(url).path)) for url in watched.asked if url.startswith("file:")}
            assert len(files) > 10
            weights[page] = sum(file.stat().st_size for file in files)
            watched.context.close()
    assert len(weights) > 20
    assert not {page: weight for page, weight in weights.items() if weight >= 700_000}


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", KINDS)
def test_a_page_is_accessible(page: str, scheme: str, site: Path, reader: Reader) -> None:
    """No serious finding of axe-core, which tests for WCAG 2 AA."""
    watched = reader(1280, scheme)
    watched.page.goto(f"{site.as_uri()}/{page}.html")
    watched.page.wait_for_load_state("load")
    found = Axe().run(watched.page).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
    assert not serious


@pytest.mark.browser
def test_formulas_are_set(address: str, reader: Reader) -> None:
    watched = reader()
    watched.page.goto(f"{address}/method.html")
    watched.page.wait_for_selector("mjx-container", timeout=15000)
    assert watched.page.locator("mjx-container").count() >= 3
    assert "\\mu" not in watched.page.locator("article").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize(("words", "page"), [("reference batch", "claims"), ("empirical Bayes", "method")])
def test_search_finds_a_page(words: str, page: str, address: str, reader: Reader) -> None:
    watched = reader()
    watched.page.goto(f"{address}/search.html?q={words}")
    link = watched.page.locator(f"#search-results a[href*='{page}.html']").first
    link.wait_for(timeout=15000)
    assert watched.outside(address) == []


@pytest.mark.browser
def test_curves_are_switched_and_stepped_through_by_keyboard(site: Path, reader: Reader) -> None:
    watched = reader()
    watched.page.goto(f"{site.as_uri()}/runs/fashion_lenet.html")
    figure = watched.page.locator("figure[data-curves]").first
    box = figure.get_by_label("show bn", exact=True)
    line = figure.locator("svg [data-series='bn']").first
    text = figure.locator(".nc-read")
    assert box.is_checked()
    assert line.is_visible()
    assert "minus BN" in text.inner_text()
    box.focus()
    watched.page.keyboard.press("Space")
    assert not box.is_checked()
    assert not line.is_visible()
    watched.page.keyboard.press("Space")  # the table is another, and the same box has the focus
    assert line.is_visible()
    figure.get_by_label("only this: none", exact=True).click()
    assert not line.is_visible()
    figure.get_by_role("button", name="all", exact=True).click()
    assert line.is_visible()
    slider, cursor = figure.locator("input[type=range]"), figure.locator(".nc-cursor").first
    before = (text.inner_text(), float(cursor.get_attribute("x1") or "nan"))
    slider.focus()
    watched.page.keyboard.press("Home")
    after = (text.inner_text(), float(cursor.get_attribute("x1") or "nan"))
    assert after[0] != before[0]
    assert after[1] < before[1]
    first = slider.get_attribute("aria-valuetext")
    watched.page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") != first
    figure.get_by_text("The numbers", exact=True).click()
    numbers = figure.locator("details table").first
    numbers.wait_for()
    assert "BN" in numbers.locator("tr").first.inner_text()
    assert re.search(r"\d \[\d", numbers.inner_text())
    assert watched.complaints == []


@pytest.mark.browser
def test_statements_are_chosen_and_the_choice_stands_in_the_address(site: Path, reader: Reader) -> None:
    watched = reader()
    page = watched.page
    page.goto(f"{site.as_uri()}/index.html")
    page.locator(".nc-bar a", has_text="refuted").click()
    page.wait_for_url("**/claims.html#verdict=refuted")
    page.locator(".nc-select output", has_text="of 76 statements").wait_for()
    shown = page.locator("tr[data-item]:visible")
    assert shown.count() > 0
    assert {text.split("\t")[-1].strip() for text in shown.all_inner_texts()} == {"refuted"}
    assert page.locator(".nc-select output").inner_text() == f"{shown.count()} of 76 statements"
    page.locator("select[name=source]").select_option("S4")
    assert "verdict=refuted&source=S4" in page.url
    assert all(text.startswith("S4-") for text in shown.all_inner_texts())
    page.reload()
    page.locator(".nc-select output", has_text="of 76 statements").wait_for()
    assert all(text.startswith("S4-") for text in shown.all_inner_texts())
    page.get_by_role("button", name="all", exact=True).click()
    page.wait_for_function("document.querySelectorAll('tr[data-item]:not([hidden])').length === 76")
    assert "=" not in page.url
    assert watched.complaints == []


@pytest.mark.browser
def test_the_guide_answers_a_choice(site: Path, reader: Reader) -> None:
    watched = reader(390, "dark")
    page = watched.page
    page.goto(f"{site.as_uri()}/choose.html")
    assert page.locator("section#batches-of-4").is_visible()
    page.locator("select[name=batch]").select_option("2")
    page.locator("select[name=network]").select_option("convolutional")
    page.locator("select[name=counts]").select_option("score")
    assert page.locator(".nc-select output li").all_inner_texts()[0].startswith("Batches of 2: ")
    assert not page.locator("section#batches-of-4").is_visible()
    page.locator("select[name=network]").select_option("detection")
    found = page.locator(".nc-select output").inner_text()
    assert re.fullmatch(r"Detecting objects: (not measured yet|a study of its own: S.+)\.", found)
    page.reload()
    page.locator("select[name=network]").select_option("lstm")
    page.locator("select[name=counts]").select_option("lengths")
    found = page.locator(".nc-select output").inner_text()
    assert re.fullmatch(r"Sequences of different lengths: (not measured yet|a study of its own: S.+)\.", found)
    assert watched.complaints == []


@pytest.mark.browser
def test_runs_are_explored_from_a_disk_and_the_view_stands_in_the_address(site: Path, reader: Reader) -> None:
    watched = reader()
    page = watched.page
    page.goto(f"{site.as_uri()}/explorer.html#experiment=compare&f.batch_size=4")
    rows = page.locator("#nc-explorer tbody tr")
    rows.first.wait_for()
    names = rows.locator("th").all_inner_texts()
    assert {"BN", "LN", "no norm"} <= {name.strip() for name in names}
    values = [float(text.split()[0]) for text in rows.locator("td:nth-child(3)").all_inner_texts()]
    assert values == sorted(values, reverse=True)  # accuracy: the best first
    assert page.locator("#nc-explorer .nc-picture > svg g[data-line]").count() == rows.count()
    bn = next(i for i, name in enumerate(names) if name.strip() == "BN")
    rows.nth(bn).get_by_role("button", name="only this: BN", exact=True).click()
    assert page.locator("#nc-explorer .nc-picture > svg g[data-line]").count() == 1
    assert "off=" in page.url
    page.reload()
    rows.first.wait_for()
    assert page.locator("#nc-explorer .nc-picture > svg g[data-line]").count() == 1
    page.get_by_role("button", name="all", exact=True).click()
    page.locator("select[name=view]").select_option("dots")
    assert "view=dots" in page.url
    page.locator("select[name=experiment]").select_option("fashion-lenet")
    page.locator("#nc-explorer a", has_text="LeNet-5 on Fashion-MNIST").wait_for()
    page.locator("#nc-explorer summary").click()
    assert 'lab.Store("fashion-lenet")' in page.locator("#nc-explorer pre").inner_text()
    assert watched.complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("runs/")])
def test_the_figure_that_answers_begins_in_the_first_screen(page: str, site: Path, reader: Reader) -> None:
    watched = reader()
    watched.page.goto(f"{site.as_uri()}/{page}.html")
    box = watched.page.locator("figure.nc-figure").first.bounding_box()
    assert box
    assert box["y"] < 900


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_front_page_is_one_screen(scheme: str, site: Path, reader: Reader) -> None:
    page = reader(scheme=scheme).page
    page.goto(f"{site.as_uri()}/index.html")
    parts = page.locator(".nc-bar, .nc-front li, .nc-front .sd-card, .nc-front figure.nc-figure").all()
    boxes = [box for part in parts if (box := part.bounding_box())]
    assert len(boxes) == len(parts) == 1 + 4 + 4 + 1
    assert max(box["y"] + box["height"] for box in boxes) < 900


@pytest.mark.browser
def test_without_a_script_the_numbers_are_there(site: Path, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.as_uri()}/runs/fashion_lenet.html")
    figure = page.locator("figure[data-curves]").first
    assert figure.locator(".nc-legend").inner_text().split("\n") == ["no norm", "BN"]
    link = figure.locator("figcaption a", has_text="The numbers as CSV")
    file = site / "runs" / (link.get_attribute("href") or "")
    assert len(file.read_text(encoding="utf-8").splitlines()) > 5
    context.close()
