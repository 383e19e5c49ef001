"""Measure in this process, without Redis or a queue, for `--local`."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from core.compression.image_results import METRIC_COLUMNS, SIZE_COLUMNS, ImageResult
from core.compression.specs import MeasuringSpec, new_names
from core.data.datasets import Dataset, DatasetImage
from core.data.names import refuse_inside
from core.errors import DermSlimError, SpecError
from core.files.exports import TABLES, CsvRows, check_ending, write_table

CLAIM = ".dermslim-writes-here"  # in a folder that a reconstruction is being written to
# The export's columns: what names the row, the metrics, the sizes, then what the row was measured with.
MEASURED_WITH = ("variant", "codec", "quality", "height", "width", "reason")
EXPORT_COLUMNS = ("image_id", "k", *METRIC_COLUMNS, *SIZE_COLUMNS, *MEASURED_WITH)
TEXT_COLUMNS = ("image_id", "variant", "codec", "reason")
WHOLE_COLUMNS = tuple(name for name in EXPORT_COLUMNS if name not in (*METRIC_COLUMNS, *TEXT_COLUMNS))


def measure_all(
    dataset: Dataset, records: Sequence[DatasetImage], spec: MeasuringSpec, *, workers: int, output: Path | None = None
) -> Iterator[ImageResult]:
    """Yield each image's result in order, measured by `workers` processes (1: by this one)."""
    one = partial(_measured, root=dataset.root, spec=spec, output=output)
    names = new_names(dataset, spec)
    tasks = [(record, names.get(record.path)) for record in records]
    if workers == 1:
        yield from map(one, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare) as pool:
        try:
            yield from pool.map(one, tasks)
        except BrokenProcessPool as error:
            raise DermSlimError(
                "Expected every process to survive its images, got one that an image ended. Submit the run to workers "
                "instead, which go on without that image."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _measured(
    task: tuple[DatasetImage, str | None], root: Path, spec: MeasuringSpec, output: Path | None
) -> ImageResult:
    from core.compression.measure import measure  # here, since most commands measure nothing

    record, name = task
    return measure(record, root, spec, output, name)


@contextmanager
def claimed(output: Path, root: Path) -> Iterator[None]:
    """Keep a new data set's folder for this process. SpecError where it has files, or is inside the source folder.

    root: the folder that is read.
    """
    refuse_inside(output, root)
    try:
        output.mkdir(parents=True, exist_ok=True)
        claim = output / CLAIM
        claim.touch(exist_ok=False)
    except OSError as error:
        raise SpecError(f"Expected a new or empty folder, got {output}: {error.strerror or error}.") from error
    try:
        if others := [each for each in output.iterdir() if each.name != CLAIM]:
            raise SpecError(f"Expected a new or empty folder, got {output} with {others[0].name}.")
        yield
    finally:
        claim.unlink(missing_ok=True)


def _prepare() -> None:
    from jobs.worker import prepare_measuring

    prepare_measuring()
    gc.unfreeze()  # nothing is forked here; what stays frozen until the process ends, DuckDB reports as leaked


def write_rows(path: Path, results: Iterable[ImageResult]) -> Iterator[ImageResult]:
    """Write one row per image and variant and hand the result on: in CSV as it comes, in Parquet once all have come.

    NULL is an empty field.
    """
    if check_ending(path, TABLES) == ".parquet":
        yield from _write_parquet(path, results)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = CsvRows(file, EXPORT_COLUMNS)
        for result in results:
            rows.write([row[name] for name in EXPORT_COLUMNS] for row in result.rows)
            yield result


def _write_parquet(path: Path, results: Iterable[ImageResult]) -> Iterator[ImageResult]:
    rows = []
    try:
        for result in results:
            rows += [[row[name] for name in EXPORT_COLUMNS] for row in result.rows]
            yield result
    finally:  # what was measured is kept where the rest was not
        import pandas as pd

        frame = pd.DataFrame(rows, columns=list(EXPORT_COLUMNS))
        kinds = dict.fromkeys(METRIC_COLUMNS, "float64") | dict.fromkeys(WHOLE_COLUMNS, "Int64")
        write_table(frame.astype(kinds | dict.fromkeys(TEXT_COLUMNS, "string")), path)
