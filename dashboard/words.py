"""Texts of the pages for numbers, times and results. Pure functions, no Streamlit."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import pandas as pd

from core.compression.metrics import METRICS_BY_NAME, Metric
from core.compression.specs import DiagnosisSpec, ReconstructSpec, ResizeSpec, RivalsSpec, SweepSpec, ways
from core.compression.svd import break_even_k
from core.estimates import Estimate
from core.predictions.intervals import Interval, interval_text, intervals_of_step
from core.runs import Run, RunSpec
from core.training.specs import TrainSpec

NONE = "–"
RUN_KIND_LABELS = {
    "svd-sweep": "SVD sweep",
    "rivals": "Rivals",
    "resize-study": "Resize comparison",
    "reconstruct": "Reconstruction",
    "diagnosis": "Diagnosis",
    "train": "Training",
    "prune-train": "Pruning and training",
}
STATUS_BADGES = {  # colour and icon
    "queued": ("gray", "schedule"),
    "scheduled": ("gray", "alarm"),
    "suspended": ("yellow", "pause_circle"),
    "running": ("blue", "play_circle"),
    "finished": ("green", "check_circle"),
    "failed": ("red", "error"),
    "cancelled": ("orange", "cancel"),
}
RULES = {"plateau": "Plateau", "knee": "Knee", "threshold": "Threshold", "budget": "Budget"}
MODES = {"per_channel": "per channel", "unfolded": "unfolded"}
LAYOUTS = {"ham10000": "images and a table", "class_folders": "a folder per class", "plain": "plain folder, no labels"}
MARKUP = frozenset(r"\`*_{}[]()#+!|~$<>:&")  # what Markdown takes as plain text after a backslash
LIST_MARK = re.compile(r"\A(?:(?=[-=])|\d+(?=\.(?:\s|\Z)))")
SPACES = re.compile(r"\A\s+|\s+\Z|[\t\n\v\f\r]")
# Where Streamlit would make a link, an icon, an emoji or an arrow of plain text, backslashes or not: between these
# characters comes an element that holds nothing, so that they are two texts.
APART = re.compile(
    r"(?<=:)(?=//|material/|[\w+-]+:)|(?<=www)(?=\.)|(?<=@)(?=[\w-])|(?<=[-<>=~])(?=[-=>])", re.IGNORECASE
)
NOTHING = ":small[]"
NEGLIGIBLE_GAIN = 0.005  # half a percent; a smaller gain of SVD does not count as a saving


def known(value: object) -> bool:
    """Return whether a value of a data frame or row is not None, NaN or NaT."""
    return value is not None and not (isinstance(value, float) and math.isnan(value)) and value is not pd.NaT


def count_text(number: object) -> str:
    """Return a whole number with thousands separators: 10,015."""
    return f"{int(number):,}" if known(number) else NONE  # type: ignore[call-overload]


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 image`, `10,015 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def bytes_text(size: object) -> str:
    """Return a size in decimal units with three digits: 82.8 MB."""
    if not known(size):
        return NONE
    value = float(size)  # type: ignore[arg-type]
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:,.0f} bytes" if unit == "bytes" else f"{_digits(value)} {unit}"
        value /= 1000
    return f"{_digits(value)} TB"


def number_text(value: object, digits: int = 4) -> str:
    """Return a number with `digits` significant digits and thousands separators, never as 1e+06."""
    if not known(value):
        return NONE
    number = float(value)  # type: ignore[arg-type]
    if number == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(number)))
    if magnitude < -4:
        return f"{number:.{digits - 1}g}"
    return f"{number:,.{max(0, digits - 1 - magnitude)}f}"


def percent_text(value: object, digits: int = 1) -> str:
    """Return a percentage that is already times 100: 73.9 %."""
    return f"{float(value):,.{digits}f} %".replace("-", "−") if known(value) else NONE  # type: ignore[arg-type]


def figure_text(value: object, limits: Interval | None, digits: int = 2) -> str:
    """Return a percentage with its 95 % interval, where there is one: 72.13 % [68.1, 76.9]."""
    return f"{percent_text(value, digits)} {interval_text(limits)}".rstrip()


def step_figure_text(step: Mapping[str, Any], column: str, name: str | None = None, digits: int = 2) -> str:
    """Return a figure of a step in percent with its 95 % interval.

    step: a row of the store with its classification. name: of the interval, where the column is called otherwise.
    """
    return figure_text(step[column], intervals_of_step(step["classification"]).get(name or column), digits)


def _digits(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"


def duration_text(seconds: object) -> str:
    """Return a duration in the two largest units that matter: 2 h 5 min, 3 min 20 s, 0.4 s."""
    if not known(seconds):
        return NONE
    value = float(seconds)  # type: ignore[arg-type]
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    for size, name, below, below_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{whole} s"


def as_moment(value: object) -> datetime | None:
    """Return a moment with its time zone from a datetime, pandas Timestamp or ISO text; None where there is none."""
    if not known(value):
        return None
    moment = pd.Timestamp(value)  # type: ignore[arg-type]
    return (moment.tz_localize(UTC) if moment.tzinfo is None else moment).to_pydatetime()


def moment_text(value: object, zone: tzinfo | None = None) -> str:
    """Return a moment in the reader's time zone: 22 Nov 2026, 21:45."""
    moment = as_moment(value)
    return NONE if moment is None else f"{moment.astimezone(zone):%-d %b %Y, %H:%M}"


def ago_text(value: object, now: datetime | None = None) -> str:
    """Return how long ago a moment was: just now, 4 min ago, 3 h ago, 2 days ago."""
    moment = as_moment(value)
    if moment is None:
        return NONE
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 3570:
        return f"{round(seconds / 60)} min ago"
    if seconds < 84_600:
        return f"{round(seconds / 3600)} h ago"
    return f"{count_of(max(1, round(seconds / 86_400)), 'day')} ago"


def shortened(text: str, length: int = 40) -> str:
    """Return a long name with its middle left out, so that both ends stay readable."""
    if len(text) <= length:
        return text
    kept = length - 1
    return f"{text[: kept - kept // 2]}…{text[-(kept // 2) :]}"


def escaped(text: object) -> str:
    """Return text that Markdown shows unchanged, because names of files and data sets are not markup.

    Backslashes do that, but for outer spaces and ends of lines, which are written as numbers so that `**` closes
    beside them, and for what Streamlit looks for in text that Markdown has already read, see `APART`.
    """
    return _spaced(_marked(str(text)))


def with_commands(text: str) -> str:
    """Return text for Markdown in which only parts between backticks are code; the rest is escaped."""
    parts = text.split("`")
    last = len(parts) - 1
    is_code = [place % 2 == 1 and place < last and bool(part.strip()) for place, part in enumerate(parts)]
    return _spaced("".join(f"`{part}`" if code else _marked(part) for part, code in zip(parts, is_code, strict=True)))


def _marked(text: str) -> str:
    marked = "".join(f"\\{each}" if each in MARKUP else each for each in APART.sub("\0", text))
    return LIST_MARK.sub(r"\g<0>\\", marked).replace("\0", NOTHING)


def _spaced(marked: str) -> str:
    return SPACES.sub(lambda found: "".join(f"&#{ord(each)};" for each in found[0]), marked)


def unlike(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels by option, with the option added to equal labels, because a select box identifies options by label.

    labels: by option.
    """
    often = Counter(labels.values())
    return {option: label if often[label] == 1 else f"{label} · {option}" for option, label in labels.items()}


def sentence(error: object) -> str:
    """Return an error's message as a sentence for Markdown: a capital first (unless it is a name), one full stop."""
    text = str(error).strip().rstrip(".")
    first = text.partition(" ")[0]
    named = first.endswith(":") or not first.isalpha()
    return escaped(text if named else text[:1].upper() + text[1:]) + "."


def codec_text(codec: object, quality: object = None) -> str:
    """Return a codec as it is written everywhere: JPEG 95, PNG."""
    name = {"jpeg": "JPEG", "png": "PNG", "webp": "WebP", "avif": "AVIF"}.get(str(codec), str(codec))
    return f"{name} {int(quality)}" if known(quality) else name  # type: ignore[call-overload]


def size_text(height: object, width: object) -> str:
    """Return rows × columns."""
    return f"{int(height)} × {int(width)}" if known(height) and known(width) else NONE  # type: ignore[call-overload]


def numbers_text(values: Sequence[int]) -> str:
    """Return whole numbers as a user types them: 100, 200, 350."""
    return ", ".join(map(str, values))


def spec_text(spec: RunSpec) -> str:
    """Return a run's settings in one line."""
    if isinstance(spec, TrainSpec):
        return f"{spec.trained_network.name} · {spec.settings} · seed {spec.training.seed}"
    sample = "all images" if spec.sample_size is None else count_of(spec.sample_size, "image")
    if isinstance(spec, RivalsSpec):
        return " · ".join([", ".join(codec_text(*pair) for pair in spec.rivals), sample])
    if isinstance(spec, DiagnosisSpec):
        network = f"{shortened(spec.run)} step {spec.step}"
        return " · ".join([network, count_of(len(ways(spec)), "way"), f"{spec.image_split} images", sample])
    if not isinstance(spec, SweepSpec | ResizeSpec | ReconstructSpec):
        return sample
    stored = [MODES[spec.mode], codec_text(spec.codec, spec.quality)]
    if isinstance(spec, SweepSpec):
        return " · ".join([f"k {numbers_text(spec.ks)}", *stored, sample])
    if isinstance(spec, ResizeSpec):
        sizes = ", ".join(f"{rows}×{columns}" for rows, columns in spec.sizes)
        return " · ".join([sizes, f"k {spec.k}", *stored, sample])
    return " · ".join([f"to {spec.name}", f"k {spec.k}", *stored])


def run_label(run: Run, zone: tzinfo | None = None) -> str:
    """Return a run's label in lists: time, data set, settings.

    It does not change while the run does, because a select box identifies options by their labels.
    """
    synthetic = " (synthetic)" if run.synthetic else ""
    when = moment_text(run.submitted_at, zone)
    return f"{when} · {shortened(run.dataset, 32)}{synthetic} · {spec_text(run.spec)}"


def metric_text(metric: Metric, value: object, undefined: int = 0, *, unit: bool = True) -> str:
    """Return a metric's value with its unit, or without by `unit`; `undefined (n)` where no image has a value."""
    if not known(value):
        return f"undefined ({undefined:,})" if undefined else "undefined"
    scaled = float(value) * _scale(metric)  # type: ignore[arg-type]
    return f"{_telling(scaled)} {_unit(metric) if unit else ''}".strip()


def _scale(metric: Metric) -> int:
    return 100 if metric.name == "explained_variance" else 1


def _unit(metric: Metric) -> str:
    return "%" if metric.name == "explained_variance" else metric.unit


def _telling(value: float) -> str:
    """Return four significant digits, or as many as distinguish 0.9999998 from 1."""
    texts = (number_text(value, digits) for digits in range(4, 10))
    whole = round(value)
    if whole == 0 or value == whole:
        return next(texts)
    return next((text for text in texts if float(text.replace(",", "")) != whole), number_text(value))


def metric_title(metric: Metric) -> str:
    """Return a metric's label with its unit, for the head of a row."""
    return f"{metric.label} ({_unit(metric)})" if _unit(metric) else metric.label


def mean_and_std(metric: Metric, row: Mapping[str, Any]) -> str:
    """Return a row of the statistics as mean ± standard deviation, both to the second digit of the deviation.

    `undefined (n)` says how many images have no value.
    """
    missing = int(row["undefined"])
    if not known(row["mean"]):
        return metric_text(metric, None, missing)
    mean, text = _scale(metric) * float(row["mean"]), metric_text(metric, row["mean"], unit=False)
    if known(row["std"]):
        deviation = _scale(metric) * float(row["std"])
        if deviation > 0:
            decimals = min(9, max(0, 1 - math.floor(math.log10(deviation))))
            text = f"{mean:,.{decimals}f} ± {deviation:,.{decimals}f}"
        else:
            text = f"{text} ± 0"
    return f"{text}, undefined ({missing:,})" if missing else text


def direction_text(metric: Metric) -> str:
    """Return which way a metric improves."""
    return "higher is better" if metric.better == "high" else "lower is better"


def smaller_text(ratio: object) -> str:
    """Return a ratio of source to stored bytes in words: 3.83 times smaller, 1.20 times larger."""
    if not known(ratio):
        return NONE
    value = float(ratio)  # type: ignore[arg-type]
    if abs(value - 1) < 0.0005:
        return "the same size"
    return f"{number_text(value, 3)} times smaller" if value > 1 else f"{number_text(1 / value, 3)} times larger"


def ratio_text(ratio: object) -> str:
    """Return a ratio of bytes with four digits: 3.834 ×."""
    return f"{number_text(ratio)} ×" if known(ratio) else NONE


def gain_text(svd_gain: object) -> str:
    """Return the gain of SVD over re-encoding, in percent with its sign."""
    return f"{100 * (float(svd_gain) - 1):+.2f} %".replace("-", "−") if known(svd_gain) else NONE  # type: ignore[arg-type]


def beside_control(stored: int, control: int) -> str:
    """Return how one stored reconstruction compares with the same image stored without SVD."""
    if stored == control:
        return "SVD changes nothing about that"
    if stored < control:
        return f"SVD makes it {100 * (1 - stored / control):.2f} % smaller than that"
    return f"with SVD it is {100 * (stored / control - 1):.2f} % larger than that"


def k_sentence(rule: Mapping[str, Any]) -> str:
    """Return the k that a rule chooses and its stability, as Markdown."""
    name = RULES.get(rule["rule"], rule["rule"])
    if not known(rule["k"]):
        return f"**The {name.lower()} rule chooses no k.** {escaped(rule['reason'])}"
    text = f"**k\\* = {int(rule['k'])}** by the {name.lower()} rule. {escaped(rule['reason'])}"
    if known(rule["stability"]):
        text += f" {100 * rule['stability']:.0f} % of the bootstrap resamples of the images choose the same k."
    return text


def storage_sentences(row: Mapping[str, Any], spec: SweepSpec | ReconstructSpec) -> list[str]:
    """Return sentences about the storage saved at one k, divided into re-encoding and SVD.

    row: of the storage table. The saving is not attributed to SVD where re-encoding without SVD explains it.
    """
    codec = codec_text(spec.codec, spec.quality)
    k = int(row["k"])
    images = count_of(int(row["images"]), "image")
    if not known(row["ratio"]):
        return [f"No image could be measured at k = {k}."]
    sentences = [
        f"At k = {k}, {images} stored as {codec} take {bytes_text(row['stored_bytes'])} instead of "
        f"{bytes_text(row['source_bytes'])}: **{smaller_text(row['ratio'])}**"
        + (f", {percent_text(row['saved_percent'])} saved." if row["ratio"] > 1 else ".")
    ]
    if known(row["control_ratio"]):
        gain = float(row["svd_gain"]) - 1
        alone = f"Re-encoding alone, {codec} without SVD, makes them {smaller_text(row['control_ratio'])}; "
        if abs(gain) < NEGLIGIBLE_GAIN:
            verb = "adds" if gain >= 0 else "takes away"
            explained = f"SVD {verb} {abs(100 * gain):.2f} %. The change of size is the codec's, not SVD's."
        elif gain > 0:
            explained = f"SVD adds {100 * gain:.1f} % to that."
        else:
            larger = 100 * (float(row["control_ratio"]) / float(row["ratio"]) - 1)
            explained = f"with SVD the files are {larger:.1f} % larger than without it."
        sentences.append(alone + explained)
    if known(row["factor_bytes"]) and known(row["height"]) and known(row["width"]):
        even = break_even_k(int(row["height"]), int(row["width"]), spec.mode)
        place = "below" if k < even else "above"
        fewer = "fewer" if k < even else "more"
        sentences.append(
            f"Kept as factors in float16 instead, they would take {bytes_text(row['factor_bytes'])}; k = {k} is "
            f"{place} the break-even of {even:.1f}, so the factors hold {fewer} numbers than the image."
        )
    return sentences


def estimate_sentence(estimate: Estimate) -> str:
    """Return the estimated duration of a run and the basis of the estimate."""
    if estimate.seconds is None:
        return estimate.basis
    return f"About {duration_text(estimate.seconds)}: {estimate.basis}"


def part_of(run: Run) -> str:
    """Return the unit of a run's progress: image or epoch."""
    return "epoch" if run.trains else "image"


def done_text(run: Run) -> str:
    """Return how much of a run is there: 45 of 60 epochs trained, 8 of 10 images measured."""
    done = "trained" if run.trains else "measured"
    return f"{count_text(run.done)} of {count_of(run.total, part_of(run))} {done}"


def failed_text(run: Run) -> str:
    """Return how many images or steps of a run failed: 1 step failed; empty for none."""
    return f"{count_of(run.failed, 'step' if run.trains else 'image')} failed" if run.failed else ""


def training_progress_text(run: Run, zone: tzinfo | None = None) -> str:
    """Return where a training run is: R1: 50% · epoch 12 of 75 · 3 min left in this step."""
    live = run.live
    epoch = f"epoch {live.epoch} of {live.epochs}" if live.epoch else count_of(live.epochs or run.total, "epoch")
    parts = [live.step_name, epoch] if live.step_name else []
    match run.status:
        case "scheduled":
            parts = [f"To start after {moment_text(live.starts_at, zone)}", *parts]
        case "suspended":
            parts = ["Suspended", *parts, *([live.doing] if live.doing else [])]
        case "queued" if live.step_name:
            parts.append("waits for a worker")
        case "queued":
            before = f", {count_of(live.position, 'run')} before it" if live.position else ""
            parts = [f"Queued{before}: {epoch} per step to train"]
        case _:
            if live.doing:
                parts.append(live.doing)
            elif live.seconds_left is not None:
                left = live.seconds_left
                parts.append(f"{duration_text(left)} left in this step" if left else "judging")
    return " · ".join(part for part in (*parts, failed_text(run)) if part)


def metric_label(name: str) -> str:
    """Return a metric's label."""
    return METRICS_BY_NAME[name].label
