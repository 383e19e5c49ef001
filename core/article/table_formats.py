"""The tables of `core.article.tables` as text: cells, CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from core.article.tables import (
    ENDS,
    FIGURES,
    LABELS,
    PARTS,
    MeasuredTable,
)
from core.files import exports
from core.predictions.intervals import Interval, interval_text


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure as text: mean ± deviation, the printed one, the difference, each run's interval; empty where missing.

    A figure that no run defines (the precision of a network that predicts nothing) is `undefined`, and where only some
    runs do, their number is said.
    """

    measured: str
    printed: str
    difference: str
    best: bool
    intervals: tuple[str, ...] = ()

    @property
    def whole(self) -> str:
        """The measured figure with the intervals."""
        return " ".join((self.measured, *self.intervals))


def cell(row: pd.Series, metric: str) -> Cell:
    """Return a row's texts for one metric."""
    digits = FIGURES[metric].digits
    measured, deviation = row[metric], row[f"{metric}_std"]
    text = f"{measured:,.{digits}f}" if pd.notna(measured) else FIGURES[metric].missing if row["runs"] else ""
    if pd.notna(deviation) and (deviation or FIGURES[metric].best):  # what is counted is the same for all seeds
        text += f" ± {deviation:,.{digits}f}"
    if 0 < row[f"{metric}_count"] < row["runs"]:
        text += f" (n = {row[f'{metric}_count']})"
    printed, difference = row[f"{metric}_printed"], row[f"{metric}_difference"]
    return Cell(
        text.replace("-", "−"),
        "" if pd.isna(printed) else f"{printed:.{digits}f}",
        "" if pd.isna(difference) else f"{round(difference, digits) + 0.0:+.{digits}f}".replace("-", "−"),
        bool(row[f"{metric}_best"]),
        tuple("[–]" if limits is None else interval_text(limits) for limits in intervals_of(row, metric)),
    )


def intervals_of(row: pd.Series, metric: str) -> list[Interval | None]:
    """Return the 95 % interval of each of a row's runs, None for a run without one; empty where no run has one."""
    texts = (row.get(f"{metric}_{end}", "").split() for end in ENDS)
    limits = [None if low == "nan" else (float(low), float(high)) for low, high in zip(*texts, strict=True)]
    return limits if any(limits) else []


def key_texts(table: MeasuredTable, row: pd.Series) -> list[str]:
    """Return the texts of a row's keys, settings without those that all rows share; empty where missing."""
    shown = [table.shortened.get(row[key], row[key]) if key == "settings" else row[key] for key in table.keys]
    return ["" if pd.isna(each) else str(each) for each in shown]


def _lines(table: MeasuredTable, bold: Callable[[str], str], missing: str) -> Iterable[list[str]]:
    """Yield each row's texts: keys, runs, then the parts of each metric."""
    for _, row in table.rows.iterrows():
        texts = key_texts(table, row)
        texts.append(str(row["runs"]) if row["runs"] else missing)
        for metric in table.metrics:
            figures = cell(row, metric)
            measured = bold(figures.whole) if figures.best else figures.whole
            shown = dict(zip(PARTS, (measured, figures.printed, figures.difference), strict=True))
            texts += [shown[part] or missing for part in table.parts]
        yield texts


def to_csv(table: MeasuredTable) -> str:
    """Return the rows in full precision, one column a figure; `_best` is 1 or 0. Data, n and settings are columns."""
    flags = {f"{metric}_best": "int64" for metric in table.metrics}
    printed = [f"{metric}_{part}" for metric in table.metrics for part in ("printed", "difference")]
    rows = table.rows if len(table.parts) > 1 else table.rows.drop(columns=printed)
    return exports.to_csv(rows.astype(flags))


def _heads(table: MeasuredTable) -> list[str]:
    return [LABELS[key] for key in (*table.keys, "runs")]


def to_markdown(table: MeasuredTable) -> str:
    """Return the caption and the table in Markdown, with its special characters escaped."""

    def line(texts: Iterable[str]) -> str:
        return f"| {' | '.join(texts)} |"

    heads = _heads(table)
    for metric in table.metrics:
        label = FIGURES[metric].label
        heads += [f"{label}, {part}" for part in table.parts] if len(table.parts) > 1 else [label]
    rule = ["---"] * len(table.keys) + ["---:"] * (len(heads) - len(table.keys))
    escaped = (
        [*(markdown_escape(text) for text in texts[: len(table.keys)]), *texts[len(table.keys) :]]
        for texts in _lines(table, lambda text: f"**{text}**", "–")
    )
    return "\n".join([markdown_escape(table.caption), "", line(heads), line(rule), *map(line, escaped), ""])


def markdown_escape(text: str) -> str:
    """Return text in which no character has a meaning to Markdown or would end a table's cell."""
    return " ".join(text.translate({ord(character): f"\\{character}" for character in "\\`*_|<>[]"}).split())


LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": r"$-$", "×": r"$\times$", "–": "--",
    "<": r"\textless{}", ">": r"\textgreater{}", "·": r"$\cdot$", "\n": " ",
})  # fmt: skip


def latex_escape(text: str) -> str:
    """Return text as LaTeX prints it; each character is replaced once."""
    return text.translate(LATEX)


def to_latex(table: MeasuredTable) -> str:
    """Return a table environment for LaTeX with booktabs; a rule between networks, a label table4, table5, …"""
    keys, parts = len(table.keys), len(table.parts)
    labels = [latex_escape(FIGURES[metric].label) for metric in table.metrics]
    columns = "l" * keys + "r" * (1 + parts * len(labels))
    groups, rules = [""] * (keys + 1), []
    for place, label in enumerate(labels):
        first = keys + 2 + parts * place
        groups.append(rf"\multicolumn{{{parts}}}{{c}}{{{label}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + parts - 1}}}")
    grouped = [" & ".join(groups) + r" \\", " ".join(rules)] if parts > 1 else []
    heads = _heads(table) + (["meas.", "print.", "diff."] * len(labels) if parts > 1 else labels)
    body: list[str] = []
    previous = None
    # A mark that no text can contain stands for bold until the text is escaped.
    for network, texts in zip(table.rows["network"], _lines(table, lambda text: f"\0{text}", "–"), strict=True):
        if previous not in (None, network):
            body.append(r"\midrule")
        previous = network
        body.append(" & ".join(_latex_cell(text) for text in texts) + r" \\")
    lines = [*grouped, " & ".join(heads) + r" \\", r"\midrule", *body]
    return _latex_environment(table.caption, f"table{table.number}", columns, lines)


def texts_to_markdown(texts: pd.DataFrame) -> str:
    """Return a table of texts in Markdown; all columns but the first stand at the right."""
    rule = ["---", *["---:"] * (len(texts.columns) - 1)]
    rows = [[markdown_escape(str(text)) for text in row] for row in [list(texts.columns), *texts.to_numpy().tolist()]]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])) + "\n"


def texts_to_latex(texts: pd.DataFrame, caption: str, label: str) -> str:
    """Return a table of texts as a table environment for LaTeX; all columns but the first stand at the right."""
    rows = [list(map(str, texts.columns)), *(list(map(str, row)) for row in texts.itertuples(index=False))]
    head, *body = (" & ".join(map(latex_escape, row)) + r" \\" for row in rows)
    columns = "l" + "r" * (len(texts.columns) - 1)
    return _latex_environment(caption, label, columns, [head, r"\midrule", *body])


def _latex_environment(caption: str, label: str, columns: str, lines: Iterable[str]) -> str:
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,graphicx}",
            r"\begin{table*}",
            r"\centering\small\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{latex_escape(caption)}}}",
            rf"\label{{{label}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )


def _latex_cell(text: str) -> str:
    if not text.startswith("\0"):
        return latex_escape(text)
    return rf"\textbf{{{latex_escape(text[1:])}}}"


WRITERS: dict[str, Callable[[MeasuredTable], str]] = {"csv": to_csv, "markdown": to_markdown, "latex": to_latex}
ENDINGS = {"csv": "csv", "markdown": "md", "latex": "tex"}  # of the files that each format is written to
