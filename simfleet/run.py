"""One run as plain data: what was asked for, and what was recorded."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simfleet.records import Records
from simfleet.scenario import Scenario

NO_CLASS = "(no class)"


@dataclass(frozen=True)
class Run:
    """Everything a report is made of; nothing in it is alive."""

    scenario: Scenario
    seed: int
    records: Records
    version: str

    @cached_property
    def requests(self) -> NDArray[np.void]:
        """One record per request, in order of arrival (columns: simfleet.records)."""
        rows = self.records.requests.array()
        return rows[np.lexsort((rows["stream"], rows["arrival_s"]))]

    @cached_property
    def measured(self) -> NDArray[np.bool_]:
        """Which requests count for latency and attainment: those that arrived after the warm-up."""
        return np.asarray(self.requests["arrival_s"] >= self.scenario.warmup)

    @cached_property
    def tpot_s(self) -> NDArray[np.float64]:
        """Time per output token after the first of every request [s]; NaN for one-token answers."""
        rows = self.requests
        after = rows["output_tokens"].astype(float) - 1
        found: NDArray[np.float64] = np.divide(
            rows["e2e_s"] - rows["ttft_s"], after, out=np.full(len(rows), np.nan), where=after > 0
        )
        return found

    @property
    def pools(self) -> list[str]:
        return list(self.scenario.pools)

    @property
    def streams(self) -> list[str]:
        return [stream.name for stream in self.scenario.workload.streams]

    @property
    def classes(self) -> list[str]:
        """Declared classes, and NO_CLASS where a stream has none."""
        without = any(stream.service_class is None for stream in self.scenario.workload.streams)
        return [*self.scenario.workload.classes, *([NO_CLASS] if without else [])]

    def class_of(self, stream: int) -> str:
        """Name of a stream's class."""
        return self.scenario.workload.streams[stream].service_class or NO_CLASS

    def in_class(self, name: str) -> NDArray[np.bool_]:
        """Which requests belong to a class."""
        numbers = [i for i in range(len(self.streams)) if self.class_of(i) == name]
        return np.isin(self.requests["stream"], numbers)
