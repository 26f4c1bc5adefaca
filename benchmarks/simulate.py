"""How busy a cluster's devices would be: the scheduler itself, over a cluster in virtual time.

No device is needed: what the stages cost is given, or was measured (`virtual_cluster.Costs`).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.virtual_cluster import Costs, Shape, VirtualCluster
from bertbatch.plan.unit_size import TOKENS_PER_MIB, auto_mib
from bertbatch.runtime.scheduler import Scheduler
from bertbatch.runtime.work import ReadTask
from bertbatch.units import Cut, Source, Span, Unit

UNITS = 300  # a device
TASK_UNITS = 4  # as readers of Parquet files take them


@dataclass(frozen=True)
class Found:
    """Shares of the time from the first batch to the last commit; `readers` cores on average."""

    busy: float
    driver: float
    readers: float
    seconds: float
    tokens_per_second: float


def simulate(shape: Shape, units_each: int = UNITS, costs: Costs | None = None) -> Found:
    """Runs so many units for each device."""
    cluster = VirtualCluster(shape, costs or Costs())
    units = units_each * shape.devices
    committed: list[str] = []
    scheduler = Scheduler(cluster, lambda record: committed.append(record.unit), lambda: False)
    outcome = scheduler.run(_tasks(units, shape))
    assert not outcome.failed_units
    assert len(committed) == units
    seconds = cluster.last_commit - cluster.first_batch
    tokens = units * shape.unit_tokens
    return Found(
        busy=tokens / shape.device_rate / shape.devices / seconds,
        driver=min(cluster.driver / cluster.now, 1.0),
        readers=cluster.reading / cluster.now,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
    )


def shape_of(devices: int, cores: int, device_rate: float, core_rate: float) -> Shape:
    """With units of the size that a run would choose for such devices."""
    tokens = int(TOKENS_PER_MIB * auto_mib(devices, device_rate))
    return Shape(devices, cores, device_rate, core_rate, tokens)


def _tasks(units: int, shape: Shape) -> Iterator[ReadTask]:
    source = Source("a", "a", 1, "1")
    size = int(shape.unit_tokens / TOKENS_PER_MIB * (1 << 20))
    for first in range(0, units, TASK_UNITS):
        numbers = range(first, min(first + TASK_UNITS, units))
        yield ReadTask([Unit(str(n), (Span(source, Cut(n, 1, n, n + 1, size)),)) for n in numbers])


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.simulate", description=__doc__)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--cores", type=int, required=True, help="of all nodes together")
    parser.add_argument("--device-rate", type=float, required=True, help="tokens/s of a device")
    parser.add_argument("--core-rate", type=float, required=True, help="tokens/s a core reads")
    parser.add_argument("--units", type=int, default=UNITS, help="a device; default %(default)s")
    options = parser.parse_args()
    shape = shape_of(options.gpus, options.cores, options.device_rate, options.core_rate)
    found = simulate(shape, options.units)
    print(
        f"{options.gpus} devices, {options.cores} cores, {options.units} units a device of "
        f"{shape.unit_tokens:,} tokens; simulated: {found.seconds:,.1f} s, "
        f"{found.tokens_per_second:,.0f} tokens/s, {found.readers:.1f} cores reading"
    )
    print(f"busy {found.busy:.3f} driver {found.driver:.3f}")


if __name__ == "__main__":
    main()
