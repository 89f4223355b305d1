"""Experiments in a reader's order."""

from typing import Any

import nbformat
import pytest

from normcore.lab.book.reading import reordered
from normcore.lab.runs.experiments import experiments


def cell(kind: str, source: str, *tags: str) -> dict[str, Any]:
    return {"cell_type": kind, "source": source, "metadata": {"tags": list(tags)}}


def test_the_answer_comes_first_and_how_it_was_run_last() -> None:
    cells = [
        cell("markdown", "# Title"),
        cell("markdown", "## Protocol"),
        cell("code", "seeds = 2", "parameters"),
        cell("code", "seeds = 5", "injected-parameters"),
        cell("code", "run()"),
        cell("markdown", "## A figure"),
        cell("code", "draw()", "hide-input"),
        cell("markdown", "## The figure"),
        cell("code", "count()"),
        cell("code", "show()", "hide-input", "answer"),
        cell("markdown", "## Verdicts"),
    ]
    found = reordered(cells, "trial")
    assert [c["source"] for c in found] == [
        "# Title",
        "```{include} ../_generated/answer_trial.md\n:end-before: '% statements'\n```",
        "## The figure",
        "count()",
        "show()",
        "```{include} ../_generated/answer_trial.md\n:start-after: '% statements'\n```",
        "## A figure",
        "draw()",
        "## Verdicts",
        "(how-trial)=\n## How it was run",
        "### Protocol",
        "seeds = 2",
        "seeds = 5",
        "run()",
    ]
    assert all("hide-input" in c["metadata"]["tags"] for c in found if c["cell_type"] == "code")
    assert "hide-input" not in cells[2]["metadata"]["tags"]  # the notebook is as it was


def test_the_figure_of_another_profile_is_folded_behind_the_answer() -> None:
    def cells(drawn: str) -> list[dict[str, Any]]:
        answer = cell("code", "show()", "answer") | {"outputs": [{"data": {"text/html": [drawn]}}]}
        return [cell("markdown", "# Title"), cell("code", "", "parameters"), cell("markdown", "## Answer"), answer]

    found = reordered(cells("half of it"), "a_trial", {"quick": cells("<figure>quick</figure>")})
    assert found[3]["outputs"][0]["data"]["text/html"] == ["half of it"]
    assert "<code>quick</code></summary><figure>quick</figure>" in found[4]["source"]
    assert 'href="../explorer.html#experiment=a-trial&amp;profile=quick"' in found[4]["source"]


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_has_a_figure_that_answers(name: str) -> None:
    cells = nbformat.read(experiments()[name].notebook, as_version=4).cells
    (answer,) = [c for c in cells if "answer" in c.metadata.get("tags", [])]
    assert "hide-input" in answer.metadata["tags"]
    found = reordered(cells, "x")
    assert len(found) == len(cells) + 3
    place = next(i for i, c in enumerate(found) if c["source"] == answer.source)
    assert {c["cell_type"] for c in found[3:place]} <= {"code"}  # nothing to read stands between
