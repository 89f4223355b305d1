"""What is written by hand of seeds is a rule of this book or is so in the results; all else of them is computed."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from normcore.lab import paths
from normcore.lab.runs.experiments import find
from normcore.lab.runs.store import Store
from normcore.lab.stats import MIN_SEEDS, look

ROOT = paths.root()
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
           "twelve": 12, "twenty": 20}  # fmt: skip
NUMBER = rf"({'|'.join(NUMBERS)}|several|(?<!as )many|\d+)"
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "book/*.md", "book/*.yml", "notebooks/*.ipynb", "notebooks/normalizers/*.ipynb")
    for path in ROOT.glob(pattern)
)


def number(word: str) -> int:
    return int(word) if word.isdigit() else NUMBERS.get(word.lower(), -1)


def of_the_search(file: str, seeds: int) -> bool:
    """Whether the published search of the notebook's experiment has so many seeds."""
    experiment = find(Path(file).stem.replace("_", "-"))
    with paths.only(paths.published()):
        profile, _ = experiment.published_runs()
        return {run.config.seed for run in Store(experiment.name).runs(profile, "search")} == set(range(seeds))


#: what may be said -> whether it is so, of the file and the numbers in it
ALLOWED: dict[str, Callable[..., bool]] = {
    rf"fewer than {NUMBER} seeds": lambda file, n: n == MIN_SEEDS,
    rf"With {NUMBER} seeds a verdict is taken on the first {NUMBER}": lambda file, n, first: look(n) == first,
    rf"The search has {NUMBER} seeds?": of_the_search,
    rf"run ([\w-]+) --profile (\w+) # [\w', ]+ {NUMBER} seeds": (
        lambda file, name, profile, n: find(name).profile(profile)["seeds"] == n
    ),
}


def texts(file: str) -> Iterator[str]:
    """The paragraphs of a page; the cells of a notebook."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".ipynb"):
        yield from (" ".join("".join(cell["source"]).split()) for cell in json.loads(text)["cells"])
    else:
        yield " ".join(text.split())


def said_wrongly(file: str, text: str) -> list[str]:
    """Where a text says how many seeds and is not allowed to, or wrong."""
    right = []
    for pattern, is_so in ALLOWED.items():
        for found in re.finditer(pattern, text, re.IGNORECASE):
            values = [number(v) if re.fullmatch(NUMBER, v, re.IGNORECASE) else v for v in found.groups()]
            if is_so(file, *values):
                right.append(found.span())
    mentioned = re.finditer(rf"\b{NUMBER} (?:further |more |paired )?seeds?\b(?! =)", text, re.IGNORECASE)
    return [text[max(0, m.start() - 60) : m.end() + 20] for m in mentioned
            if not any(a <= m.start() and m.end() <= b for a, b in right)]  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_no_page_says_by_hand_how_many_seeds_were_measured(file: str) -> None:
    wrong = [words for text in texts(file) for words in said_wrongly(file, text)]
    assert not wrong, f"{file}: leave it to study.note or a generated part, or make it one of the rules of this test"


def test_it_finds_what_is_not_so() -> None:
    assert said_wrongly("book/index.md", "run again with several seeds") == ["run again with several seeds"]
    assert said_wrongly("book/index.md", "fewer than five seeds have none") == []
    assert said_wrongly("book/index.md", "fewer than four seeds have none") != []
    assert said_wrongly("notebooks/position.ipynb", "The search has two seeds.") != []
    assert said_wrongly("notebooks/position.ipynb", "The search has one seed.") == []
    assert said_wrongly("book/reproduce.md", "run fashion-lenet --profile full # the source's protocol, 4 seeds") != []
