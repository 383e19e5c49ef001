"""Tables 4, 5 and 6 in the article's form: what was measured, what the article prints, and the difference.

Input is one frame of trained steps, `STEP_COLUMNS`; a page filters it by runs and hands over the rest. Runs of the same
network, images and settings are averaged over their seeds; runs that differ in data set or settings never are, and
get rows of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from core.architectures import CLASSES, NETWORKS
from core.errors import SpecError
from core.paper import TABLE_METRICS, TITLES
from core.paper import table as printed_table
from core.schedule import ORIGINAL

# One row a trained step. version: whether the images are 'original' or 'reconstructed', whatever the data set's name.
# settings: what a run was told, as text, such as '200×100, 75 epochs'. step: 0 is the unpruned network. name: as in
# Table 6. accepted: True, False, or missing while unknown. Figures are in percent, sizes in bytes, times in seconds.
IDENTITY_COLUMNS = ("run_id", "network", "dataset", "version", "settings", "seed")
STEP_COLUMNS = (
    *IDENTITY_COLUMNS,
    "step",
    "name",
    "parameters",
    "macs",
    "bytes_weights",
    "bytes_with_optimizer",
    "accepted",
    "reason",
    "train_accuracy",
    "train_precision",
    "validation_accuracy",
    "validation_precision",
    "test_accuracy",
    "test_precision",
    "test_recall",
    "macro_precision",
    "macro_recall",
    "balanced_accuracy",
    "epochs",
    "seconds",
)
NEEDED = ("run_id", "network", "dataset", "version", "seed", "step", "name")
VERSIONS = ("original", "reconstructed")
DIGITS = 2  # as the article prints

KEYS: dict[int, tuple[str, ...]] = {4: ("network", "version"), 5: ("network", "version"), 6: ("network", "name")}
KEY_LABELS = {"network": "Architecture", "version": "Images", "name": "Model", "dataset": "Data set"}
LABELS = KEY_LABELS | {
    "settings": "Settings",
    "runs": "Runs",
    "train_accuracy": "Training accuracy",
    "train_precision": "Training precision",
    "validation_accuracy": "Validation accuracy",
    "validation_precision": "Validation precision",
    "test_accuracy": "Accuracy",
    "test_precision": "Precision",
    "test_recall": "Recall",
}
VARYING = ("version", "dataset", "settings")  # what keeps rows apart beyond a table's keys


@dataclass(frozen=True, eq=False)
class ArticleTable:
    """One of the article's tables.

    rows: the table's keys, further columns of `VARYING` where the measured runs differ in them, runs (how many were
    averaged, 0 where only printed), and for each of `metrics` its measured mean under the metric's name, and _std
    (sample deviation, missing for fewer than two runs), _printed, _difference (measured minus printed) and _best (True
    for the best measured of its network, where there are several to compare). Missing figures are NaN.
    caption: a sentence or two, plain text.
    """

    number: int
    keys: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: pd.DataFrame
    caption: str


def article_table(number: int, steps: pd.DataFrame, *, images: str = "", synthetic: bool = False) -> ArticleTable:
    """Return Table 4, 5 or 6 for measured steps, beside what the article prints.

    steps: columns `NEEDED` and the table's metrics; others are not looked at but settings. Table 4 and 5 take the
    unpruned networks. images: how many images stand behind the figures, in words, such as '3300 training, 1100
    validation and 360 test images', for the caption. synthetic: whether the caption must say so.
    """
    if number not in KEYS:
        raise SpecError(f"expected table 4, 5 or 6, got {number}")
    metrics = TABLE_METRICS[number]
    missing = [column for column in (*NEEDED, *metrics) if column not in steps]
    if missing:
        raise SpecError(f"expected steps with the columns {', '.join((*NEEDED, *metrics))}, got none of {missing}")
    unknown = set(steps["version"].dropna()) - set(VERSIONS)
    if unknown:
        raise SpecError(f"expected versions {' or '.join(VERSIONS)}, got {sorted(unknown)}")
    steps = steps.assign(settings=steps["settings"].fillna("") if "settings" in steps else "")
    if number != 6:
        steps = steps[steps["name"] == ORIGINAL]
    steps = steps[steps[list(metrics)].notna().any(axis=1)]
    differing = [column for column in VARYING if column not in KEYS[number] and _differs(steps, column, KEYS[number])]
    keys = (*KEYS[number], *differing)
    rows = _beside(_averaged(steps, keys, metrics), number, metrics, differing)
    return ArticleTable(number, keys, metrics, rows, _caption(number, steps, images, synthetic))


def _differs(steps: pd.DataFrame, column: str, keys: tuple[str, ...]) -> bool:
    """Say whether rows with equal keys differ in a column, and would be averaged over it."""
    return bool((steps.groupby(list(keys))[column].nunique() > 1).any())


def _averaged(steps: pd.DataFrame, keys: tuple[str, ...], metrics: tuple[str, ...]) -> pd.DataFrame:
    """Return one row for each of the keys: mean and sample deviation over the runs, their number, the first step."""
    values = steps.astype(dict.fromkeys(metrics, "float64"))
    groups = values.groupby(list(keys), sort=False)
    table = groups[list(metrics)].mean()
    table = table.join(groups[list(metrics)].std(ddof=1).add_suffix("_std"))
    table["runs"] = groups["run_id"].nunique()
    table["step"] = groups["step"].min()
    return table.reset_index()


def _beside(measured: pd.DataFrame, number: int, metrics: tuple[str, ...], differing: Iterable[str]) -> pd.DataFrame:
    """Join measured rows with the article's, in its order; what only one side has keeps its row."""
    keys = list(KEYS[number])
    printed = printed_table(number)[[*keys, *metrics]].rename(columns={name: f"{name}_printed" for name in metrics})
    printed["order"] = range(len(printed))
    table = measured.merge(printed, on=keys, how="outer")
    table["place"] = table["network"].map({name: place for place, name in enumerate(NETWORKS)}).fillna(len(NETWORKS))
    # Within a network: the article's rows as printed, then what it lacks, in the order of the steps.
    table = table.sort_values(["place", "network", *differing, "order", "step"], kind="stable", na_position="last")
    table = table.reset_index(drop=True)
    table["runs"] = table["runs"].fillna(0).astype("int64")
    for metric in metrics:
        table[f"{metric}_difference"] = table[metric] - table[f"{metric}_printed"]
        shown = table[metric].round(DIGITS)
        networks = shown.groupby(table["network"])
        table[f"{metric}_best"] = (shown == networks.transform("max")) & (networks.transform("count") > 1)
    suffixes = ("", "_std", "_printed", "_difference", "_best")
    return table[[*keys, *differing, "runs", *(metric + suffix for metric in metrics for suffix in suffixes)]]


def _caption(number: int, steps: pd.DataFrame, images: str, synthetic: bool) -> str:
    title = f"Table {number} of the article, measured again. {TITLES[number]}, in percent"
    if steps.empty:
        return f"{title}. Nothing measured yet; printed figures only."
    datasets = steps[["dataset", "version"]].drop_duplicates().sort_values(["version", "dataset"])
    named = ", ".join(f"{row.dataset} ({row.version})" for row in datasets.itertuples())
    seeds = sorted(steps["seed"].dropna().unique())
    settings = sorted(text for text in steps["settings"].unique() if text)
    parts = [
        f"Data: {named}{', synthetic' if synthetic else ''}",
        *([f"n: {images}"] if images else []),
        f"{_counted(steps['run_id'].nunique(), 'run')}, {_counted(len(seeds), 'seed')} "
        f"({', '.join(str(int(seed)) for seed in seeds)})",
        *([f"settings: {'; '.join(settings)}"] if settings else []),
    ]
    deviation = " Mean ± sample deviation over runs." if steps["run_id"].nunique() > 1 else ""
    return (
        f"{title}. {'; '.join(parts)}. {len(CLASSES)} classes.{deviation} Difference: measured minus printed. "
        "Bold: the best measured figure of a network."
    )


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured figure as text: value ± deviation, the printed one and the difference; empty where missing."""

    measured: str
    printed: str
    difference: str
    best: bool


def cell(row: pd.Series, metric: str) -> Cell:
    """Return a row's texts for one metric."""
    measured, deviation = row[metric], row[f"{metric}_std"]
    text = "" if pd.isna(measured) else f"{measured:.{DIGITS}f}"
    if text and pd.notna(deviation):
        text += f" ± {deviation:.{DIGITS}f}"
    printed, difference = row[f"{metric}_printed"], row[f"{metric}_difference"]
    return Cell(
        text,
        "" if pd.isna(printed) else f"{printed:.{DIGITS}f}",
        "" if pd.isna(difference) else f"{round(difference, DIGITS) + 0.0:+.{DIGITS}f}".replace("-", "−"),
        bool(row[f"{metric}_best"]),
    )


PARTS = ("measured", "printed", "difference")


def _lines(table: ArticleTable, bold: Callable[[str], str], missing: str) -> Iterable[list[str]]:
    """Yield each row's texts: keys, runs, then measured, printed and difference of each metric."""
    for _, row in table.rows.iterrows():
        texts = ["" if pd.isna(row[key]) else str(row[key]) for key in table.keys]
        texts.append(str(row["runs"]) if row["runs"] else missing)
        for metric in table.metrics:
            figures = cell(row, metric)
            measured = bold(figures.measured) if figures.best else figures.measured
            texts += [measured or missing, figures.printed or missing, figures.difference or missing]
        yield texts


def to_csv(table: ArticleTable) -> str:
    """Return the rows in full precision, one column a figure; `_best` is 1 or 0."""
    flags = {f"{metric}_best": "int64" for metric in table.metrics}
    return table.rows.astype(flags).to_csv(index=False, lineterminator="\n")


def to_markdown(table: ArticleTable) -> str:
    """Return the caption and the table in Markdown, with its special characters escaped."""

    def line(texts: Iterable[str]) -> str:
        return f"| {' | '.join(texts)} |"

    heads = [LABELS[key] for key in (*table.keys, "runs")]
    heads += [f"{LABELS[metric]}, {part}" for metric in table.metrics for part in PARTS]
    rule = ["---"] * len(table.keys) + ["---:"] * (len(heads) - len(table.keys))
    escaped = (
        [*(markdown_escape(text) for text in texts[: len(table.keys)]), *texts[len(table.keys) :]]
        for texts in _lines(table, lambda text: f"**{text}**", "–")
    )
    return "\n".join([markdown_escape(table.caption), "", line(heads), line(rule), *map(line, escaped), ""])


def markdown_escape(text: str) -> str:
    """Return text in which no character has a meaning to Markdown or would end a table's cell."""
    for character in "\\`*_|<>[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": r"$-$", "×": r"$\times$", "–": "--",
    "<": r"\textless{}", ">": r"\textgreater{}", "·": r"$\cdot$", "\n": " ",
}  # fmt: skip


def latex_escape(text: str) -> str:
    """Return text as LaTeX prints it; each character is replaced once."""
    return "".join(LATEX.get(character, character) for character in text)


def to_latex(table: ArticleTable) -> str:
    """Return a table environment for LaTeX with booktabs; a rule between networks, a label table4, table5 or table6."""
    keys = len(table.keys)
    columns = "l" * keys + "r" * (1 + len(PARTS) * len(table.metrics))
    groups, rules = [""] * (keys + 1), []
    for place, metric in enumerate(table.metrics):
        first = keys + 2 + len(PARTS) * place
        groups.append(rf"\multicolumn{{{len(PARTS)}}}{{c}}{{{LABELS[metric]}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + len(PARTS) - 1}}}")
    heads = [LABELS[key] for key in (*table.keys, "runs")] + ["meas.", "print.", "diff."] * len(table.metrics)
    body: list[str] = []
    previous = None
    # Bold is put round the escaped text, so a mark that no text can hold stands for it until then.
    for network, texts in zip(table.rows["network"], _lines(table, lambda text: f"\0{text}", "–"), strict=True):
        if previous not in (None, network):
            body.append(r"\midrule")
        previous = network
        body.append(" & ".join(_latex_cell(text) for text in texts) + r" \\")
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table*}",
            r"\centering\small\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{latex_escape(table.caption)}}}",
            rf"\label{{table{table.number}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(groups) + r" \\",
            " ".join(rules),
            " & ".join(heads) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _latex_cell(text: str) -> str:
    if not text.startswith("\0"):
        return latex_escape(text)
    return rf"\textbf{{{latex_escape(text[1:])}}}"


WRITERS: dict[str, Callable[[ArticleTable], str]] = {"csv": to_csv, "markdown": to_markdown, "latex": to_latex}
