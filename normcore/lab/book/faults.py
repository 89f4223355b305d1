"""The faults that the tests inject and how many of them are survived, counted by the tests themselves."""

from .. import paths
from ..files import read_sealed
from .markdown import table

FILE = "data/faults.json"


def faults() -> str:
    """A table, a row for each kind of fault."""
    found = read_sealed(paths.root() / FILE)
    rows = [[row["kind"], f"{row['injected']:,}", f"{row['survived']:,}"] for row in found["faults"]]
    sums = [sum(row[name] for row in found["faults"]) for name in ("injected", "survived")]
    made = found["provenance"]
    return "\n\n".join([
        f"Counted by the tests themselves, at commit `{made['commit']}` on {made['device_name']}:",
        table(["fault", "injected", "survived"], [*rows, ["**all**", *(f"**{n:,}**" for n in sums)]], "lrr"),
    ])  # fmt: skip
