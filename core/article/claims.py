"""The verdict on each claim of the article: reproduced, not reproduced, or not measured yet, with the figures.

A claim about several networks is refuted by one of them, and confirmed only by all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from core.article import compression_claims as compression
from core.article import network_claims as networks
from core.article.findings import Finding, Known, NotMeasured
from core.article.printed import claims as printed_claims
from core.article.table_formats import markdown_escape
from core.files import exports

REPRODUCED, NOT_REPRODUCED, NOT_MEASURED = "reproduced", "not reproduced", "not measured yet"
STATUSES = (REPRODUCED, NOT_REPRODUCED, NOT_MEASURED)
STATUS_OF = {True: REPRODUCED, False: NOT_REPRODUCED, None: NOT_MEASURED}


@dataclass(frozen=True, slots=True)
class Claim:
    """How one claim is judged. source: the part of `Known` that it uses, 'counted' where no image is involved."""

    source: str
    judge: Callable[[Known], Finding]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one claim. measured: the figures as a sentence. runs: ids of their runs.

    note: what the article leaves open, and where it contradicts itself. chance: which differences can be told from
    chance; empty for a claim about no difference of accuracies.
    """

    claim_id: str
    status: str
    measured: str
    runs: tuple[str, ...]
    note: str
    chance: str = ""


EVERY_K, CURVES, HISTORY = compression.judge_every_k, networks.judge_curves, networks.judge_history
CLAIMS: dict[str, Claim] = {
    "C01": Claim("sweep", compression.judge_size),
    "C02": Claim("sweep", compression.judge_ratio),
    "C03": Claim("sweep", compression.judge_saved),
    "C04": Claim("sweep", compression.judge_chosen_k),
    "C05": Claim("sweep", compression.judge_psnr),
    "C06": Claim("sweep", compression.judge_ssim),
    "C07": Claim("sweep", compression.judge_colour),
    "C08": Claim("sweep", partial(EVERY_K, metric="hu_correlation", floor=compression.HU_CORRELATION)),
    "C09": Claim("sweep", compression.judge_haralick),
    "C10": Claim("sweep", partial(EVERY_K, metric="spectral_correlation", floor=compression.SPECTRAL_CORRELATION)),
    "C11": Claim("sweep", compression.judge_explained),
    "C12": Claim("resize", compression.judge_best_size),
    "C13": Claim("curves", partial(CURVES, all_convolutions=True)),
    "C14": Claim("curves", partial(CURVES, all_convolutions=False)),
    "C15": Claim("pairs", networks.judge_reconstructed),
    "C16": Claim("steps", partial(HISTORY, network="alexnet", name="R3: 50%", needs=("R1: 50%", "R2: 50%"), last=True)),
    "C17": Claim("steps", networks.judge_best_case),
    "C18": Claim("steps", networks.judge_megabytes),
    "C19": Claim("steps", networks.judge_shares),
    "C20": Claim("counted", networks.judge_lenet5),
    "C21": Claim("steps", partial(HISTORY, network="custom2", name="R2: 33%", note=networks.AFTER_A_REJECTION)),
    "C22": Claim("steps", partial(HISTORY, network="custom1", name="R1, R2: 50%, 33%", needs=("R1: 50%",))),
    "C23": Claim("steps", networks.judge_minutes),
}


def judge(claim_id: str, known: Known) -> Verdict:
    """Judge one claim of `core.article.printed.claims`. Raises KeyError for an unknown id."""
    claim = CLAIMS[claim_id]
    try:
        finding = claim.judge(known)
    except NotMeasured as missing:
        finding = Finding(None, f"Needs {missing}.", missing.note, runs=())
    runs = known.runs.get(claim.source, ()) if finding.runs is None else finding.runs
    printed = str(printed_claims().set_index("id")["note"][claim_id])
    named = not printed or printed.startswith("The article")
    notes = [finding.note, printed if named else f"The article: {printed}"]
    if claim.source in known.synthetic and finding.holds is not None:
        notes.insert(0, "Measured on synthetic images: no conclusion about real images.")
    holds = None if finding.holds is None else bool(finding.holds)
    return Verdict(claim_id, STATUS_OF[holds], finding.measured, runs, " ".join(filter(None, notes)), finding.chance)


def judge_all(known: Known) -> tuple[Verdict, ...]:
    """Judge every claim, in the article's order."""
    return tuple(judge(claim_id, known) for claim_id in CLAIMS)


def claims_table(known: Known) -> pd.DataFrame:
    """Return the article's claims with their verdicts: id, area, source, claim, printed_value, status, measured, runs.

    Further columns: chance, note. runs: ids in one text, separated by spaces.
    """
    table = printed_claims().drop(columns="note")
    verdicts = judge_all(known)
    columns = ("status", "measured", "chance", "runs", "note")
    table = table.assign(**{name: [getattr(verdict, name) for verdict in verdicts] for name in columns})
    return table.assign(runs=table["runs"].map(" ".join))


def to_csv(table: pd.DataFrame) -> str:
    """Return a `claims_table` as CSV."""
    return exports.to_csv(table)


def to_markdown(table: pd.DataFrame, basis: Iterable[str] = ()) -> str:
    """Return a `claims_table` in Markdown. basis: sentences about the measurements that the claims are judged by."""
    heads = {
        "id": "Claim",
        "source": "Article",
        "claim": "What it says",
        "printed_value": "Printed",
        "status": "Status",
        "measured": "Measured",
        "chance": "Told from chance",
        "note": "Notes",
        "runs": "Runs",
    }
    counts = ", ".join(f"{sum(table['status'] == status)} {status}" for status in STATUSES)
    lines = [f"{len(table)} claims of the article: {counts}.", *(f"- {markdown_escape(text)}" for text in basis), ""]
    lines += [f"| {' | '.join(heads.values())} |", f"|{'---|' * len(heads)}"]
    for row in table[list(heads)].itertuples(index=False):
        lines.append(f"| {' | '.join(markdown_escape(text) or '–' for text in row)} |")
    return "\n".join([*lines, ""])


WRITERS: dict[str, Callable[[pd.DataFrame, Iterable[str]], str]] = {
    "csv": lambda table, basis: to_csv(table),
    "markdown": to_markdown,
}
