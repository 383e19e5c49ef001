"""The bundle: one ZIP file with a step's converted networks, all that is needed to use them, and a model card."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from core.data.training_arrays import COLOUR_ORDER
from core.deployment import predict
from core.deployment.formats import FORMATS, Conversion, file_name
from core.errors import SpecError
from core.networks.architectures import CLASSES
from core.predictions.curves import brier_score, calibration_error
from core.predictions.intervals import LEVEL, RESAMPLES, interval_text
from core.training.results import StepResult
from core.training.specs import FLOAT32, TrainSpec

if TYPE_CHECKING:
    import pandas as pd

ABOUT, CARD, PREDICT = "about.json", "MODEL_CARD.md", "predict.py"
PREPROCESSING = (
    "The photograph, upright, averaged over areas to the network's size; pixels 0 to 255, which the network divides by"
    " 255. The metadata: (age − mean_age) / age_deviation, unknown ages replaced by median_age; the place of the sex"
    " and of the localization in their lists, counted from 1, 0 where unknown."
)
METRICS = (
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("macro_precision", "precision, mean over classes"),
    ("macro_auc", "area under the ROC curve, mean over classes"),
)


@dataclass(frozen=True)
class Bundle:
    """What a bundle says and holds.

    spec: of the run. encoding: of the metadata, `MetadataEncoding.to_dict`. sets: the run's sets,
    `Store.run_splits`. notes: sentences that belong beside its results. conversions: of this step. predictions: the
    step's rows of the test images. folder: of the run's files.
    """

    run_id: str
    spec: TrainSpec
    step: StepResult
    synthetic: bool
    revision: str | None
    encoding: Mapping[str, Any]
    sets: pd.DataFrame
    notes: Sequence[str]
    conversions: Sequence[Conversion]
    predictions: pd.DataFrame = field(repr=False)
    folder: Path = Path()

    def write(self, file: IO[bytes]) -> list[str]:
        """Write the bundle to a file; return the names in it. SpecError where no converted network is here."""
        networks = self.networks()
        texts = {
            ABOUT: json.dumps(self.about(list(networks)), indent=1, ensure_ascii=False),
            CARD: self.card(),
            PREDICT: Path(predict.__file__).read_text(encoding="utf-8"),
        }
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
            for name, place in networks.items():
                archive.write(place, name)
        return [*texts, *networks]

    def networks(self) -> dict[str, Path]:
        """Return the converted networks that can be used, by their names in the bundle, float32 first."""
        usable = {each.format for each in self.conversions if not each.failure}
        places = {name: self.folder / file_name(self.step.step, name) for name in FORMATS if name in usable}
        if missing := [place for place in places.values() if not place.is_file()]:
            raise SpecError(
                f"Expected the converted networks on this host, got none of {missing[0]}. Convert them again."
            )
        if not places:
            raise SpecError(
                f"Expected a converted network of step {self.step.step} of {self.run_id}, got none. `python -m jobs"
                f" convert {self.run_id} --step {self.step.step}` makes them."
            )
        return {f"{name}{FORMATS[name].suffix}": place for name, place in places.items()}

    def about(self, networks: Sequence[str]) -> dict[str, Any]:
        """Return what the network expects, for programs."""
        return {
            "run": self.run_id,
            "step": self.step.name,
            "classes": list(CLASSES),
            "height": self.spec.training.height,
            "width": self.spec.training.width,
            "colour_order": COLOUR_ORDER,
            **self.encoding,
            "preprocessing": PREPROCESSING,
            "networks": list(networks),
        }

    def card(self) -> str:
        """Return the model card, as Markdown."""
        training = self.spec.training
        made = ", made by DermSlim's program: its images are synthetic" if self.synthetic else ""
        lines = [
            f"# {self.spec.trained_network.name}, {self.step.name}",
            "",
            "**For research. This is no medical device, and what it gives is no diagnosis.**",
            "",
            f"A network with {self.step.parameters:,} parameters that divides photographs of skin into"
            f" {', '.join(CLASSES)}. Its input: {training.height}×{training.width} pixels, age, sex and localization.",
            "",
            "## Training",
            "",
            f"- Data set: {self.spec.dataset}{made}.",
            f"- Run {self.run_id}, step {self.step.step}, seed {self.step.seed}, {self.step.epochs} epochs, the weights"
            f" of epoch {self.step.kept_epoch}; code {self.revision or 'unknown'}.",
            f"- Settings: {self.spec.settings}.",
            *(f"- {note}" for note in self.notes),
            "",
            *self._sets(),
            "",
            "## Metrics",
            "",
            f"On the test images, by Keras at {self.step.precision or FLOAT32}. In brackets: {LEVEL} % intervals, by"
            f" {RESAMPLES:,} resamples of lesions.",
            "",
            *self._metrics(),
            "",
            "## Networks in this bundle",
            "",
            "Compared with Keras at float32, with the same weights, on the test images.",
            "",
            *self._conversions(),
            "",
            "## Limits",
            "",
            "- The classes and photographs are those of the data set. The network is not tested on others: other"
            " cameras, skin types or diseases, photographs that are not of a lesion.",
            "- The network gives a class to every photograph, also where none of the classes fits.",
            "- The licence of the data set may restrict the use of the network.",
            "- The probabilities are no risks: see the calibration above.",
            "",
            "## Use",
            "",
            "`python predict.py image.jpg --age 50 --sex male --site back`, with NumPy, Pillow and ai-edge-litert (or"
            " onnxruntime, for the ONNX file). `about.json` has the constants for programs of your own.",
            "",
        ]
        return "\n".join(lines)

    def _sets(self) -> list[str]:
        rows = [
            f"| {row.label} | {row.split} | {row.lesions} | {row.images} |" for row in self.sets.itertuples(index=False)
        ]
        return ["| class | set | lesions | images |", "|---|---|---:|---:|", *rows]

    def _metrics(self) -> list[str]:
        test = self.step.classification.get("test", {})
        limits = test.get("intervals", {})
        rows = [
            f"| {title} | {test[name]:.1f} % {interval_text(limits.get(name))} |"
            for name, title in METRICS
            if test.get(name) is not None
        ]
        rows += [
            f"| recall of {label} | {recall:.1f} % {interval_text(limits.get(f'recall_{label}'))} |"
            for label, recall in test.get("class_recall", {}).items()
            if recall is not None
        ]
        if len(self.predictions):
            rows += [
                f"| expected calibration error | {calibration_error(self.predictions):.3f} |",
                f"| Brier score, 0 to 2 | {brier_score(self.predictions):.3f} |",
            ]
        return [f"| on {test.get('images', 0)} images | |", "|---|---|", *rows]

    def _conversions(self) -> list[str]:
        rows = [
            f"| {FORMATS[each.format].title} | {each.bytes:,} | {each.agreement_text} | {each.accuracy_text} |"
            f" {each.flaw} |"
            for each in self.conversions
            if not each.failure
        ]
        return ["| format | bytes | the class of Keras | test accuracy | flaw |", "|---|---:|---|---|---|", *rows]
