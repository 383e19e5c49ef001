"""Networks: their layers as the article's tables print them, drawn, counted, and at every size."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.compression.specs import DEFAULT_SIZES
from core.errors import SpecError
from core.networks.architectures import NETWORKS, NetworkSpec
from core.networks.batch_norm import with_batch_norm
from core.networks.costs import layer_table, network_cost, size_table
from core.networks.network_files import EXAMPLE_YAML, Networks
from dashboard import words
from dashboard.charts import measuring as charts
from dashboard.charts import networks as network_charts
from dashboard.forms import network_choices
from dashboard.parts import components

BRANCHES = {
    "image": ("Image model (CNN)", "From the pixels to the units that meet the text model."),
    "metadata": ("Text model (MLP)", "From age, sex and localisation."),
    "head": ("Combined model", "From both outputs side by side to the softmax over the four classes."),
}


def pick_network(found: Networks) -> NetworkSpec:
    """Return the network that the reader chooses."""

    def label(name: str) -> str:
        own = "" if name in NETWORKS else " (yours)"
        return words.shortened(f"{name} · {found.networks[name].title}", 70) + own

    chosen = components.url_choice(
        st.selectbox, "Network", list(found.networks), param="network", default="alexnet", format_func=label
    )
    return found.networks[chosen]


def answer(spec: NetworkSpec, height: int, width: int) -> None:
    """Show what the network costs at this size."""
    cost = network_cost(spec, height, width)
    with st.grid(4, min_column_width=150):
        st.metric("Parameters", words.count_text(cost.parameters), border=True)
        st.metric("MACs per image", f"{words.number_text(cost.macs / 1e6)} M", border=True)
        st.metric("Size as weights", words.bytes_text(cost.bytes_weights), border=True)
        st.metric("With Adam's state", words.bytes_text(cost.bytes_with_optimizer), border=True)
    st.caption(
        "Learnable parameters, counted from the layers as Keras counts trainable ones; no network is built. MACs: "
        "multiply-accumulates of convolutions and dense layers. Sizes: float32, weights with batch normalisation's "
        "running statistics, and a checkpoint that also holds Adam's two moments of each parameter."
    )


def layers(spec: NetworkSpec, table: pd.DataFrame) -> None:
    """Show the layers in the form of the article's Tables 1 to 3, one table per branch."""
    st.header("Layers")
    source = f"{spec.source[:1].upper()}{spec.source[1:]}" or "No source is named"
    st.caption(f"{words.escaped(source)}. Sizes are rows × columns × channels.")
    for branch, (title, text) in BRANCHES.items():
        rows = table[table["branch"] == branch]
        st.markdown(f"**{title}**: {words.count_text(rows['parameters'].sum())} parameters")
        st.caption(text)
        components.table(
            {
                "Layer": rows["type"],
                "Filters or units": rows["size"].astype("string").fillna(""),
                "Kernel": rows["kernel"].fillna(""),
                "Stride": rows["stride"].fillna(""),
                "Output shape": rows["output_shape"],
                "Parameters": rows["parameters"].map(words.count_text),
                "MACs": rows["macs"].map(words.count_text),
                "Note": rows["detail"],
                "Name": rows["name"],
            },
            alt=f"Layers of the {title.lower()} of {spec.name}",
            column_config={
                "Layer": st.column_config.TextColumn(pinned=True, width="medium"),
                **components.right_aligned("Filters or units", "Parameters", "MACs"),
                "Note": st.column_config.TextColumn(width="medium"),
            },
            key=f"layers_{branch}",
        )
    components.downloads(spec.name, {"Layers": lambda: table}, key="layers")


def sizes(networks: Sequence[NetworkSpec], spec: NetworkSpec, chosen: tuple[int, int] | None) -> None:
    """Show what each size does to this network, and to all of them."""
    st.header("Cost at each size")
    wanted = [*DEFAULT_SIZES, *([chosen] if chosen else [])]
    table = size_table(networks, wanted)
    table["variant"] = table["height"].astype(str) + "x" + table["width"].astype(str)
    rows = table[table["network"] == spec.name].astype(object)
    rows = rows.where(rows.notna(), None)
    components.table(
        {
            "Size": [words.size_text(*pair) for pair in zip(rows["height"], rows["width"], strict=True)],
            "Parameters": [words.count_text(value) if value else "too small" for value in rows["parameters"]],
            "MACs": rows["macs"].map(words.count_text),
            "As weights": rows["bytes_weights"].map(words.bytes_text),
            "With Adam's state": rows["bytes_with_optimizer"].map(words.bytes_text),
        },
        alt=f"Parameters, MACs and bytes of {spec.name} at each size",
        height="auto",
        column_config=components.right_aligned("Parameters", "MACs", "As weights", "With Adam's state"),
    )
    for reason in table["reason"].dropna():
        st.caption(f":material/info: {words.sentence(reason)}")
    figure = charts.parameters_by_size(table, theme=components.theme())
    components.chart(figure, alt="Learnable parameters of every network by size", key="sizes")
    st.caption(
        "Convolutions weigh the same at every size; what grows is the first dense layer after flatten, which has a "
        "weight for every pixel and channel that reaches it. The article takes 200 × 100."
    )
    components.downloads("networks", {"Sizes": lambda: table.drop(columns="variant")}, key="sizes")


def readings(spec: NetworkSpec) -> None:
    """List what was chosen where the source does not say it."""
    st.header("Readings taken")
    if not spec.readings:
        st.caption("None are named.")
        return
    st.caption("Where the source does not say it, this was chosen:")
    st.markdown("\n".join(f"- {words.escaped(reading)}" for reading in spec.readings))


def own_networks(found: Networks) -> None:
    """Show how a user adds a network."""
    st.header("Your own networks")
    st.markdown(
        "Put a YAML file that lists the layers into the folder below. The network appears on this page, on the page of "
        "parameter curves and on the command line, under the file's name. A file that cannot be used is named at the "
        "top of this page with the line to look at."
    )
    st.code(str(network_choices.folder()), language=None, wrap_lines=True)
    own = [name for name in found.networks if name not in NETWORKS]
    if own:
        st.caption(f"Found: {words.escaped(', '.join(own))}.")
    components.download("Example, small.yaml", EXAMPLE_YAML, "small.yaml", "application/yaml", key="example_small.yaml")
    with st.expander("The example", icon=":material/code:"):
        st.code(EXAMPLE_YAML, language=None, wrap_lines=True)


def network(spec: NetworkSpec, height: int, width: int) -> None:
    """Show the network at one size: cost, drawing, layers, where its parameters are."""
    answer(spec, height, width)
    table = layer_table(spec, height, width)
    drawing = network_charts.network_drawing(spec, height, width, theme=components.theme())
    alt = f"The layers of {spec.name} as blocks, image branch above, text branch below, both joining"
    components.chart(drawing, alt=alt, key="drawing")
    st.caption(
        "Left to right: depth. Height: the side of the feature map, or the units where it is flat; width: the channels "
        "of convolutions; all logarithmic. Point at a block for its shape and parameters."
    )
    layers(spec, table)
    by_layer = network_charts.parameters_by_layer(table, theme=components.theme())
    components.chart(by_layer, alt=f"Learnable parameters of each layer of {spec.name}", key="by_layer")


def pick_size() -> tuple[int, int] | None:
    """Return the size that the reader chooses; a sentence and None where what was typed is no size."""
    try:
        return network_choices.size_choice()
    except SpecError as error:
        st.error(words.sentence(error), icon=":material/error:")
        return None


found = network_choices.networks()
network_choices.broken_files(found)
left, right = st.columns([2, 1])
with left:
    spec = pick_network(found)
with right:
    size = pick_size()
batch_norm = network_choices.batch_norm_choice()
shown = {name: with_batch_norm(each, batch_norm) for name, each in found.networks.items()}
spec = shown[spec.name]
if size:
    with components.sentences():
        network(spec, *size)
sizes(list(shown.values()), spec, size)
readings(spec)
own_networks(found)
