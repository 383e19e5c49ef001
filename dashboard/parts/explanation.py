"""What converted networks say of one image, and where they look: the unpruned one beside the smallest."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import streamlit as st

from core.data.datasets import DatasetImage
from core.networks.architectures import CLASSES
from core.training.specs import TrainSpec
from dashboard import deployment_data
from dashboard.charts.predictions import shown_class
from dashboard.deployment_data import Floats, Network, Pixels
from dashboard.parts import components, pictures
from dashboard.parts.compare import Pane, compare

SHOWN_HEIGHT = 300  # pixels of a map in the browser
FAINT = 0.05  # a drop of the probability below which the maps are all dark
DEFINITION = (
    "Light: where covering a patch with the image's mean colour takes most of the probability of the predicted class, "
    "mean over the patches that cover a pixel. It shows what the network relies on, not what is ill."
)


def explanation(original: Pixels, stored: Pixels | None, record: DatasetImage | None, k_text: str) -> None:
    """Show the classes and occlusion maps of an image by the networks of a run.

    stored: the image at k, for which the classes are predicted too. record: its metadata; None where unknown.
    """
    st.header("What networks say")
    found = deployment_data.networks_here()
    if not found:
        st.caption("No converted network is on this host. The page Deploy converts those of a training run.")
        components.page_link("deploy", "Convert a network", icon=":material/memory:")
        return
    run_id = components.url_choice(
        st.selectbox,
        "Networks of the run",
        list(found),
        param="networks_of",
        format_func=lambda each: name_of(found[each]),
    )
    networks = found[run_id]
    images = {"the original": original} | ({} if stored is None else {k_text: stored})
    components.table(
        pd.DataFrame(
            [answer(network, title, image, record) for network in networks for title, image in images.items()]
        ),
        alt="Classes and probabilities that each network gives the image",
    )
    if record is None:
        st.caption("Age, sex and site are not known here: the networks get the values for unknown.")
    if st.toggle("Show where they look", key="occlusion", bind="query-params"):
        with st.spinner("Covering part after part"):
            maps = [deployment_data.occlusion(network, original, record) for network in networks]
        scale = max(FAINT, *(float(each.max()) for each in maps))
        panes = [
            Pane(overlay(original, each, scale), network.name, f"at most {100 * each.max():.1f} points")
            for network, each in zip(networks, maps, strict=True)
        ]
        height = SHOWN_HEIGHT
        compare(panes, (height, round(height * original.shape[1] / original.shape[0])), "side", key="occlusion_maps")
        st.caption(DEFINITION)


def name_of(networks: list[Network]) -> str:
    """Return a run's name in the list."""
    run = networks[0].run
    spec = run.told(TrainSpec)
    return f"{spec.trained_network.name} on {run.dataset}, seed {spec.training.seed} · {run.id[-4:]}"


def answer(network: Network, title: str, image: Pixels, record: DatasetImage | None) -> dict[str, str]:
    """Return what a network says of an image, as texts."""
    chances = deployment_data.probabilities(network, image, record)
    return {
        "Network": f"{network.name}, {network.parameters:,} parameters",
        "Image": title,
        "Class": shown_class(CLASSES[int(chances.argmax())]),
        **{shown_class(label): f"{100 * chance:.1f} %" for label, chance in zip(CLASSES, chances, strict=True)},
    }


def overlay(image: Pixels, drops: Floats, scale: float) -> bytes:
    """Return the image in grey below the map's colours, as a PNG file. scale: the drop that is drawn lightest."""
    height = SHOWN_HEIGHT
    size = (round(height * image.shape[1] / image.shape[0]), height)
    grey = cv2.cvtColor(cv2.cvtColor(cv2.resize(image, size), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    share = cv2.resize(np.clip(drops / scale, 0, 1), size, interpolation=cv2.INTER_CUBIC)
    colours = pictures.coloured(np.clip(share, 0, 1))
    return pictures.shown(np.asarray(cv2.addWeighted(grey, 0.4, colours, 0.6, 0), dtype=np.uint8))
