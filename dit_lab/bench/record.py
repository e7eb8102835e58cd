"""The record of a benchmark, and its comparison with a recorded one. Torch-free."""

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

SLOWER = 1.25  # ratio to the recorded cost above which a cost may count as slower
IMPORT, FIRST_STEP = "torch's own import", "first training step"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measurements of a config in seconds, bytes and FLOP/s, with their conditions."""

    overrides: Sequence[str]
    assumed: Sequence[str]
    circumstances: Mapping[str, Any]  # date, device, threads, versions
    product_rate: float  # FLOP/s of large matrix products, in the same run
    stated_rate: float | None  # FLOP/s by the device's data sheet
    training: Step | None = None
    sampling: Drawing | None = None
    loading: Loading | None = None
    startup: Mapping[str, Sequence[float]] | None = None  # seconds of each start

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"costs": {name: asdict(cost) for name, cost in self.costs().items()}}

    def costs(self) -> dict[str, Turns]:
        """Return costs that should be the same on other or busy machines; higher is slower.

        They are times relative to a reference that was measured in interleaved blocks. Training and
        sampling are relative to matrix products of as many FLOP; loading, per image, to drawing one
        normal number; the first step to the import of torch.
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
    """A recorded cost and its present value."""

    name: str
    recorded: Turns
    now: Turns

    @property
    def is_slower(self) -> bool:
        """Whether it is slower by more than SLOWER and than the variation between blocks."""
        much = self.now.median > SLOWER * self.recorded.median
        return much and self.now.least > self.recorded.most


class Record(TypedDict):
    """The entries of a file of `bench --json` that are read."""

    overrides: list[str]
    costs: dict[str, Turns]


def read_record(file: Path) -> Record:
    """Read a file of `bench --json`; raise RequestError if it is not one."""
    where, instead = f"--check {file}", "`dit-lab bench --json FILE` writes one"
    record = {} if file.is_dir() else read_json(file)
    if not record:
        missing = "no record of a bench" if file.exists() else "does not exist"
        raise RequestError(f"{where}: {missing}; {instead}")
    return read_as(Record, record, where=where, what="no record of a bench", instead=instead)


def checked(record: Record, now: Bench) -> list[Checked]:
    """Return every cost that is both recorded and measured now."""
    costs = now.costs()
    return [
        Checked(name, recorded, costs[name])
        for name, recorded in record["costs"].items()
        if name in costs
    ]
