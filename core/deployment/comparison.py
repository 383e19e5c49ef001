"""Converted networks beside each other: size, latency and accuracy, and which of them no other beats."""

from __future__ import annotations

from typing import Any

import pandas as pd

from core.deployment.formats import FORMATS, Conversion

SMALLER_IS_BETTER = ("bytes", "wall_median")
LATENCY = ["threads", "rounds", "wall_median", "wall_p95", "cpu_median", "cpu_p95", "peak_memory", "runtime"]
COLUMNS = {
    "name": "Step",
    "title": "Format",
    "parameters": "Parameters",
    "bytes": "Bytes",
    "agreement": "Same class as Keras, %",
    "largest_difference": "Largest difference of a probability",
    "accuracy": "Test accuracy, %",
    "accuracy_low": "95 % interval from",
    "accuracy_high": "to",
    "wall_median": "Latency, ms, median",
    "wall_p95": "95th percentile",
    "cpu_median": "Processor time, ms, median",
    "peak_memory": "Peak memory, bytes",
    "runtime": "Runtime",
}


def beside_each_other(
    conversions: pd.DataFrame, latencies: pd.DataFrame, steps: pd.DataFrame, threads: int = 1
) -> pd.DataFrame:
    """Return one row per converted network of a run that can be run, with what its step and its latency are.

    conversions, latencies, steps: the store's rows of one run; latencies of one host. threads: whose latencies are
    taken. Columns: those of the three; name, title (of the format), agreement in percent, flaw, and front: whether no
    other network is at least as good in bytes, latency and accuracy and better in one. A latency that was not measured
    is missing, and does not count.
    """
    kept = conversions[conversions["failure"] == ""]
    found = kept.merge(steps[["step", "name", "parameters"]], on="step")
    own = latencies.loc[latencies["threads"] == threads, ["step", "format", *LATENCY]]
    found = found.merge(own, on=["step", "format"], how="left")
    each = conversions_of(found)
    return found.assign(
        title=[FORMATS[one.format].title for one in each],
        agreement=pd.Series([one.agreement for one in each], dtype="float64"),
        flaw=[one.flaw for one in each],
        front=pareto_front(found),
    )


def of_newest_host(latencies: pd.DataFrame) -> pd.DataFrame:
    """Return the latencies of the host that measured last."""
    hosts = latencies.sort_values("measured_at")["host"]
    return latencies[latencies["host"] == hosts.iloc[-1]] if len(hosts) else latencies


def conversions_of(rows: pd.DataFrame) -> list[Conversion]:
    """Return rows with the columns of table `conversions` as conversions."""
    own = rows[list(Conversion.__dataclass_fields__)].astype(object)
    known = own.where(own.notna(), None).to_dict("records")
    return [Conversion(**{str(name): value for name, value in row.items()}) for row in known]


def pareto_front(networks: pd.DataFrame) -> list[bool]:
    """Return of each row whether no other is at least as good in bytes, wall_median and accuracy and better in one."""
    costs = networks[list(SMALLER_IS_BETTER)].assign(errors=-networks["accuracy"]).astype("float64")
    values = costs.dropna(axis="columns").to_numpy()
    return [not ((values <= row).all(axis=1) & (values < row).any(axis=1)).any() for row in values]


def readable(networks: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `beside_each_other` with `COLUMNS` under their titles, for files."""
    return networks[list(COLUMNS)].rename(columns=COLUMNS)


def texts_of(networks: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `beside_each_other` as texts, for tables that are printed. A dash where nothing is known."""

    def text(values: pd.Series[Any], form: str) -> list[str]:
        return ["–" if pd.isna(value) else form.format(value) for value in values]

    return pd.DataFrame(
        {
            "Step": networks["name"],
            "Format": networks["title"],
            "Parameters": text(networks["parameters"], "{:,}"),
            "Bytes": text(networks["bytes"], "{:,}"),
            "As Keras, %": text(networks["agreement"], "{:.2f}"),
            "Apart by": text(networks["largest_difference"], "{:.1e}"),
            "Test accuracy": [each.accuracy_text for each in conversions_of(networks)],
            "Latency, ms": text(networks["wall_median"], "{:.2f}"),
            "95th percentile": text(networks["wall_p95"], "{:.2f}"),
            "Memory, MB": text(networks["peak_memory"] / 1e6, "{:.0f}"),
        }
    )
