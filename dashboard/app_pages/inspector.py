"""One image at any k: original and reconstruction, where they differ, the spectrum, and every metric."""

import random

import pandas as pd
import streamlit as st

from core.compression.metrics import METRICS, METRICS_BY_NAME
from core.compression.svd import MODES, break_even_k, factor_bytes
from core.data.datasets import Dataset, DatasetImage
from core.data.images import CODECS
from core.errors import DermSlimError
from dashboard import data, words
from dashboard.charts import measuring as charts
from dashboard.forms import measuring as forms
from dashboard.parts import components, explanation, pictures
from dashboard.parts.compare import Pane, compare

MATCHES = 12
UPLOADED = "An uploaded image"


def choose(image_id: str) -> None:
    """Show another image of the data set."""
    st.session_state["image"] = image_id


def find_image(dataset: Dataset) -> tuple[bytes, str, str] | None:
    """Return the chosen image of a data set: its file, name and description."""
    records = data.records(dataset.name)
    ids = list(records)
    if not ids:
        st.info("This data set has no readable image.", icon=":material/broken_image:")
        return None

    with st.container(horizontal=True, vertical_alignment="bottom"):
        typed = st.text_input(
            f"Image, of {len(ids):,}",
            key="image",
            bind="query-params",
            placeholder="an id, or a part of one",
            type="search",
        )
        if typed not in records:  # an id may begin or end with spaces
            typed = typed.strip()
        current = typed if typed in records else ids[0] if not typed else None
        place = ids.index(current) if current else 0
        st.button("Previous", icon=":material/chevron_left:", on_click=choose, args=(ids[place - 1],))
        st.button(
            "Next", icon=":material/chevron_right:", icon_position="right", on_click=choose,
            args=(ids[(place + 1) % len(ids)],),
        )  # fmt: skip
        st.button("Any", icon=":material/shuffle:", on_click=choose, args=(random.choice(ids),))
    if current is None:
        wanted = typed.lower()
        found = [image_id for image_id in ids if wanted in image_id.lower()]
        if not found:
            st.warning(f"Expected an id of {words.escaped(dataset.name)}, or a part of one, got {words.escaped(typed)}")
            return None
        more = f", the first {MATCHES} of them" if len(found) > MATCHES else ""
        st.caption(f"{words.count_of(len(found), 'image')} match{'es' if len(found) == 1 else ''}{more}:")
        with st.grid("auto", min_column_width=130, gap="small"):
            for image_id in found[:MATCHES]:
                with st.container(gap="xsmall"):
                    components.thumbnail(dataset.root / records[image_id].path, records[image_id].sha256, image_id)
                    name = words.escaped(words.shortened(image_id, 22))
                    st.button(name, key=f"match_{image_id}", on_click=choose, args=(image_id,))
        return None
    record = records[current]
    facts = [record.label, record.dx, record.localization, record.sex, f"{record.age:g} years" if record.age else None]
    about = " · ".join(dict.fromkeys(fact for fact in facts if fact))
    return pictures.read_file(dataset.root / record.path), current, about


def uploaded_image() -> tuple[bytes, str, str] | None:
    """Return an uploaded image; it stays in this session and is stored nowhere."""
    file = st.file_uploader(
        "Image", type=["jpg", "jpeg", "png", "webp", "avif", "tif", "tiff", "bmp"], key="upload", max_upload_size=50
    )
    if file is None:
        st.caption("The image stays in this session: nothing is stored, and the address of this view does not name it.")
        return None
    return file.getvalue(), file.name, "uploaded"


def settings_fields() -> tuple[str, str, int | None]:
    """Return mode, codec and quality."""
    with st.container(horizontal=True):
        mode = st.selectbox("Mode", list(MODES), format_func=words.MODES.__getitem__, key="mode", bind="query-params")
        codec = st.selectbox("Codec", list(CODECS), format_func=words.codec_text, key="codec", bind="query-params")
        qualities = CODECS[codec].qualities
        if qualities is None:
            st.text_input("Quality", value="lossless", disabled=True, key="lossless")
            return mode, codec, None
        quality = st.number_input(
            "Quality",
            min_value=qualities[0],
            max_value=qualities[-1],
            value=CODECS[codec].default_quality or qualities[-1],
            key=f"quality_{codec}",
            bind="query-params",
        )
    return mode, codec, quality


def lesion_images(dataset: Dataset, image_id: str) -> None:
    """Offer the other images of an image's lesion.

    Every image has this row: if the elements below moved up for some images, the browser would create their widgets
    anew, and these would no longer write their values to the address.
    """
    lesion = data.records(dataset.name)[image_id].lesion_id
    others = [each.image_id for each in dataset.records if each.lesion_id == lesion and each.image_id != image_id]
    with st.container(horizontal=True, vertical_alignment="center"):
        if lesion is None or not others:
            st.caption("There is no other image of this lesion.")
            return
        st.caption(f"Other images of lesion {words.escaped(words.shortened(lesion, 30))}:", width="content")
        for each in others:
            name = words.escaped(words.shortened(each, 22))
            st.button(name, key=f"lesion_{each}", type="tertiary", on_click=choose, args=(each,))


@st.fragment
def inspected(
    image: pictures.Decomposed, mode: str, codec: str, quality: int | None, record: DatasetImage | None
) -> None:
    """Draw everything that depends on k; only this part runs again when the slider moves."""
    rank = image.factors.rank
    if rank == 1:
        k = 1
        st.caption("This image has rank 1: the only k is 1.")
    else:
        st.session_state.setdefault("k", min(350, rank))
        if not 1 <= st.session_state["k"] <= rank:
            st.session_state["k"] = rank
        k = st.slider("k, singular values kept", 1, rank, key="k", bind="query-params")
    try:
        reconstruction = pictures.reconstructed(image.digest, mode, k, codec, quality, image)
    except DermSlimError as error:
        st.error(words.sentence(error), icon=":material/error:")
        return
    sizes(image, reconstruction, mode, k, codec, quality)
    views(image, reconstruction, k, codec, quality)
    left, right = st.columns(2)
    with left:
        components.chart(
            lambda: charts.spectrum(image.factors.singular_values, mode, theme=components.theme()),
            alt="Singular values, and the energy that the first of them hold",
            key="spectrum",
            depends=(image.digest, mode, components.theme()),  # not on k: a step of the slider leaves it as it is
        )
        held = words.metric_text(METRICS_BY_NAME["explained_variance"], reconstruction.metrics["explained_variance"])
        st.caption(f"The first k = {k} of {rank} hold {words.escaped(held)} of the energy.")
    with right:
        components.chart(
            charts.histograms(*reconstruction.histograms, theme=components.theme()),
            alt="Histograms of the channels, original and reconstruction",
            key="histograms",
        )
    explanation.explanation(image.image, reconstruction.pixels, record, f"k = {k}, {words.codec_text(codec, quality)}")
    metric_table(reconstruction)


def sizes(
    image: pictures.Decomposed,
    reconstruction: pictures.Reconstruction,
    mode: str,
    k: int,
    codec: str,
    quality: int | None,
) -> None:
    """Show the four sizes of this image at this k."""
    height, width = image.shape
    stored_as = words.codec_text(codec, quality)
    factors = factor_bytes(k, height, width, mode)
    even = break_even_k(height, width, mode)
    with st.grid(4, min_column_width=150):
        st.metric("Source file", words.bytes_text(image.source_bytes), border=True, height="stretch")
        st.metric(
            f"Stored as {stored_as}", words.bytes_text(reconstruction.stored_bytes), border=True, height="stretch"
        )
        st.metric(
            f"{stored_as} without SVD", words.bytes_text(reconstruction.control_bytes), border=True, height="stretch"
        )
        st.metric(
            "As factors, float16",
            words.bytes_text(factors),
            border=True,
            height="stretch",
            help=f"k(H+W+1) numbers per matrix. Above k = {even:.1f} they are more numbers than the image has.",
        )
    verdict = words.beside_control(reconstruction.stored_bytes, reconstruction.control_bytes)
    st.caption(
        f"Source to stored: {words.smaller_text(image.source_bytes / reconstruction.stored_bytes)}; {stored_as} alone: "
        f"{words.smaller_text(image.source_bytes / reconstruction.control_bytes)}; {verdict}."
    )


def views(
    image: pictures.Decomposed, reconstruction: pictures.Reconstruction, k: int, codec: str, quality: int | None
) -> None:
    """Show original and reconstruction, as a swipe or side by side with the maps."""
    layout = st.segmented_control(
        "Layout", ["Swipe", "Side by side"], default="Swipe", key="layout", bind="query-params", required=True,
        label_visibility="collapsed",
    )  # fmt: skip
    stored_as = words.codec_text(codec, quality)
    panes = [
        Pane(image.picture, "Original", f"{words.size_text(*image.shape)} pixels"),
        Pane(reconstruction.stored, f"k = {k}, {stored_as}", "reconstructed, stored and decoded"),
        Pane(
            reconstruction.difference,
            "Difference",
            f"largest channel difference of each pixel, at most {reconstruction.largest_difference}; "
            f"lightest from {pictures.DIFFERENCE_SCALE}",
        ),
    ]
    if reconstruction.ssim is not None:
        note = (
            f"SSIM around each pixel, at least {words.number_text(reconstruction.lowest_ssim, 3)}; "
            f"darkest 1, lightest up to {1 - pictures.SSIM_SCALE:g}"
        )
        panes.append(Pane(reconstruction.ssim, "SSIM map", note))
    if layout == "Swipe":
        compare(panes[:2], image.shape, "swipe", key="swipe")
        with st.expander("Difference and SSIM maps", icon=":material/gradient:", expanded=True):
            compare(panes[2:], image.shape, "side", key="maps")
    else:
        compare(panes, image.shape, "side", key="side")


def metric_table(reconstruction: pictures.Reconstruction) -> None:
    """List every metric with its value, unit, direction and definition."""
    st.header("All metrics")
    values = {metric: words.metric_text(metric, reconstruction.metrics[metric.name]) for metric in METRICS}
    st.table(
        pd.DataFrame(
            {
                "Metric": [words.escaped(metric.label) for metric in values],
                "Value": [f"**{words.escaped(value)}**" for value in values.values()],
                "Better": [metric.better for metric in values],
                "Definition": [words.escaped(metric.definition) for metric in values],
            }
        ),
        hide_index=True,
        border="horizontal",
        alt="All metrics of this image at this k",
    )


st.caption(
    "The original is compared with the stored and decoded reconstruction, exactly as a sweep does it for every image."
)
names = list(data.datasets()["name"]) if not data.health().store else []
source = components.url_choice(
    st.segmented_control,
    "Source",
    ["registered", "upload"] if names else ["upload"],
    param="source",
    format_func={"registered": "Of a data set", "upload": UPLOADED}.__getitem__,
    label_visibility="collapsed",
    required=True,
)
with components.sentences():
    found, badge = None, ""
    if source == "upload":
        found = uploaded_image()
    elif (dataset := forms.choose_dataset()) is not None:
        found = find_image(dataset)
        badge = f"{components.SYNTHETIC} " if dataset.synthetic else ""
    if found is None:
        st.stop()
    content, title, about = found
    st.header(words.escaped(words.shortened(title, 60)), anchor=False)
    # As many elements for every image: see `lesion_images`.
    # No caption: it would make the badge paler than can be read.
    st.markdown(f"{badge}:small[:gray[{words.escaped(about or 'no metadata')}]]")
    if source == "registered" and dataset is not None:
        lesion_images(dataset, title)
    mode, codec, quality = settings_fields()
    with st.spinner("Decomposing"):
        pictures.compiled()
        image = pictures.decomposed(content, pictures.digest_of(content), mode)
    record = data.records(dataset.name)[title] if source == "registered" and dataset is not None else None
    inspected(image, mode, codec, quality, record)
