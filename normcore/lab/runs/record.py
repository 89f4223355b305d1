"""The result of a run, and the file that it is kept in: checked for sense and for change whenever it is read."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ..config import RunConfig
from ..files import DIGEST, digest, first_error, parse_json, write_sealed
from ..probes import Probed

KEY = r"^[0-9a-f]{16}$"  # the name of a run


class Unreadable(Exception):
    """What is wrong with a file, in words that follow its name."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        config: what was asked for.
        status: ``finished``, or ``diverged`` where the loss became infinite or NaN.
        final: the last values of the curves; for a diverged run those before the divergence.
        curves: ``{"train": {"step", "loss", "accuracy"}, "test" or "validation": the same}``.
        provenance: versions, device, commit, time, data fingerprint.
        diverged_at: the first step whose loss was not finite.
        probes: ``{probe: {"step", ...}}``, a value a column for each row that a probe gave.
    """

    config: RunConfig
    status: str
    final: dict[str, float]
    curves: dict[str, dict[str, list[float]]]
    provenance: dict[str, Any]
    diverged_at: int | None = None
    probes: Probed = field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.config.key

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Run":
        """The run of a record that :meth:`to_json` made.

        Raises:
            Unreadable: it lacks something, has something of a wrong type or that cannot be, or is another version's.
        """
        _check(record)
        fields = {name: value for name, value in record.items() if name not in ("key", DIGEST)}
        try:
            run = cls(**{**fields, "config": RunConfig(**record["config"])})
        except (TypeError, ValueError, RecursionError) as error:
            raise Unreadable(f"is not a result (config: {error})") from error
        if run.key != record["key"]:
            raise Unreadable(f"is not a result (key {record['key']} does not belong to its configuration, {run.key})")
        return run


def write(path: Path, run: Run) -> None:
    """Keep the run, whole or not at all, with the hash by which a change of the file is seen."""
    write_sealed(path, run.to_json())


def read(path: Path) -> Run:
    """The run in a file.

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it is no result, is damaged or changed, or is another version's.
    """
    record = _loaded(path, "result")
    if not isinstance(record, dict):
        raise Unreadable(f"is not a result (expected fields, got {type(record).__name__})")
    written = record.get(DIGEST)
    run = Run.from_json(record)
    if written is not None and written != digest(record):
        raise Unreadable("was changed after it was written: its digest is another one")
    return run


def read_index(path: Path) -> dict[str, list[str]]:
    """stage -> the keys of its runs.

    Raises:
        FileNotFoundError, Unreadable: as :func:`read`.
    """
    stages = _loaded(path, "index")
    try:
        return _INDEX.validate_python(stages)
    except ValidationError as error:
        raise Unreadable(f"is not an index ({first_error(error)})") from error


def _loaded(path: Path, what: str) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise Unreadable(f"is not a {what} ({error})".replace("a index", "an index")) from error


# --- what a file may say -----------------------------------------------------------------------------------

_Strict = ConfigDict(strict=True, allow_inf_nan=False)
_Curve = dict[str, list[float]]
_Probe = dict[str, list[float | str | list[float] | None]]
_INDEX = TypeAdapter(dict[str, list[Annotated[str, Field(pattern=KEY)]]], config=ConfigDict(strict=True))


class _Provenance(BaseModel):
    """What figures and tables read of it; it may say more."""

    model_config = ConfigDict(**_Strict, extra="allow")
    device_name: str
    versions: dict[str, str]
    seconds: float = Field(ge=0)


class _Record(BaseModel):
    """A result's file."""

    model_config = ConfigDict(**_Strict, extra="forbid")
    key: Annotated[str, Field(pattern=KEY)]
    config: dict[str, Any]
    status: Literal["finished", "diverged"]
    final: dict[str, float]
    curves: dict[str, _Curve]
    provenance: _Provenance
    diverged_at: int | None = None
    probes: dict[str, _Probe] = {}
    digest: str | None = None

    @model_validator(mode="after")
    def _can_be(self) -> "_Record":
        shares = [("final", name, [value]) for name, value in self.final.items()]
        for where, curve in self.curves.items():
            shares += [(where, name, values) for name, values in curve.items()]
        for where, name, values in shares:
            if ("accuracy" in name or "_ap" in name) and not all(0 <= value <= 1 for value in values):
                raise ValueError(f"{where}, {name}: a share lies between 0 and 1")
        columns: Iterable[tuple[str, Mapping[str, list[Any]]]] = [*self.curves.items(), *self.probes.items()]
        for where, table in columns:
            if len({len(values) for values in table.values()}) > 1:
                raise ValueError(f"{where}: its columns are of different lengths")
            steps = table.get("step", [])
            if any(not isinstance(s, int | float) or s < 0 for s in steps) or steps != sorted(steps):
                raise ValueError(f"{where}: its steps do not rise")
        return self


def _check(record: Mapping[str, Any]) -> None:
    config = record.get("config")
    later = set(config) - {f.name for f in dataclasses.fields(RunConfig)} if isinstance(config, dict) else set()
    if later := later | set(record) - set(_Record.model_fields):
        raise Unreadable(f"is a result of another version of normcore, with the field {', '.join(sorted(later))}")
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        raise Unreadable(f"is not a result ({first_error(error)})") from error
