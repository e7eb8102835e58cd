"""All that was measured of one configuration, as a file keeps it, and how it compares with what a
file has kept. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from dit_lab.bench.figures import Turns
from dit_lab.core.errors import RequestError
from dit_lab.core.typed import read_as
from dit_lab.runs.folder import read_json

if TYPE_CHECKING:
    from dit_lab.bench.loading import Loading
    from dit_lab.bench.sampling import Drawing
    from dit_lab.bench.training import Step

SLOWER = 1.25  # times the recorded cost: what takes more may be called slower
IMPORT, FIRST_STEP = "torch's own import", "first training step"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What was measured, in seconds, bytes and FLOP/s, and by what."""

    overrides: Sequence[str]
    assumed: Sequence[str]
    circumstances: Mapping[str, Any]  # date, device, threads, versions
    product_rate: float  # FLOP/s of large matrix products, in the same run
    stated_rate: float | None  # by the device's data sheet
    training: Step | None = None
    sampling: Drawing | None = None
    loading: Loading | None = None
    startup: Mapping[str, Sequence[float]] | None = None  # seconds of each start

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"costs": {name: asdict(cost) for name, cost in self.costs().items()}}

    def costs(self) -> dict[str, Turns]:
        """Costs that another machine, or a busy one, should find alike: times as multiples of what
        was measured beside them. More is slower.

        Training and sampling: of the time of matrix products of as many FLOP; loading, of an image:
        of drawing one normal number; the first step: of importing torch.
        """
        found = {}
        if self.training:
            found["training"] = self.training.of_products
        if self.sampling:
            found["sampling"] = self.sampling.of_products
        if self.loading:
            found["loading"] = self.loading.of_normals
        if self.startup and FIRST_STEP in self.startup:
            found["first step"] = Turns.of(self.startup[IMPORT], self.startup[FIRST_STEP])
        return found


@dataclass(frozen=True, slots=True)
class Checked:
    """A cost that was recorded beside what it is now."""

    name: str
    recorded: Turns
    now: Turns

    @property
    def is_slower(self) -> bool:
        """Much, and beyond what differs from turn to turn."""
        much = self.now.median > SLOWER * self.recorded.median
        return much and self.now.least > self.recorded.most


class Record(TypedDict):
    """What is read of a file that `bench --json` wrote."""

    overrides: list[str]
    costs: dict[str, Turns]


def read_record(file: Path) -> Record:
    """What a file has kept. Raises RequestError."""
    where, instead = f"--check {file}", "`dit-lab bench --json FILE` writes one"
    record = {} if file.is_dir() else read_json(file)
    if not record:
        missing = "no record of a bench" if file.exists() else "does not exist"
        raise RequestError(f"{where}: {missing}; {instead}")
    return read_as(Record, record, where=where, what="no record of a bench", instead=instead)


def checked(record: Record, now: Bench) -> list[Checked]:
    """Every cost that both know."""
    costs = now.costs()
    return [
        Checked(name, recorded, costs[name])
        for name, recorded in record["costs"].items()
        if name in costs
    ]
