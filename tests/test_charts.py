import numpy as np
import pandas as pd
import pytest

from core.compression.metrics import METRICS, METRICS_BY_NAME
from core.compression.rivals import rate_points
from core.compression.summary import storage, summarise
from core.compression.svd import decompose
from dashboard.charts import datasets as dataset_charts
from dashboard.charts import measuring as charts
from dashboard.charts import style

KS = (100, 200, 300)
EMPTY = pd.DataFrame()


def measurements(ks=KS, images=8, seed=1):
    generator = np.random.default_rng(seed)
    frames = []
    for k in ks:
        frame = pd.DataFrame({"image_id": [f"ISIC_{image}" for image in range(images)], "variant": f"k={k}", "k": k})
        frame = frame.assign(codec="jpeg", quality=95, height=450, width=600, source_bytes=270_000, reason=None)
        frame["stored_bytes"] = generator.integers(60_000, 80_000, images)
        frame["control_bytes"] = 75_000
        frame["factor_bytes"] = k * 6306
        for metric in METRICS:
            frame[metric.name] = generator.random(images)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


SWEEP = measurements()
STATISTICS = summarise(SWEEP)
STORAGE = storage(SWEEP)
JPEG = SWEEP.assign(k=None, quality=SWEEP["k"] // 10 + 60).assign(
    variant=lambda rows: "jpeg " + rows["quality"].astype(str)
)
PNG = JPEG[JPEG["quality"] == 70].assign(variant="png", codec="png", quality=None, psnr=None, mse=0.0)
RIVALS = pd.concat([JPEG, PNG], ignore_index=True)
RIVAL_POINTS = rate_points(summarise(RIVALS), storage(RIVALS))
SWEEP_POINTS = rate_points(STATISTICS, STORAGE)


def trace(figure, name):
    found = [each for each in figure.data if each.name == name]
    assert len(found) == 1, [each.name for each in figure.data]
    return found[0]


def figures_of(metric, column):
    return list(STATISTICS.loc[STATISTICS["metric"] == metric, column])


def notes(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def vertical_lines(figure):
    return [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]


@pytest.mark.parametrize("metric", [metric.name for metric in METRICS])
def test_every_metric_is_drawn_with_its_exact_values(metric):
    figure = charts.metric_against_k(STATISTICS, metric, [200])
    mean = trace(figure, "mean")
    assert list(mean.x) == list(KS)
    assert list(mean.y) == figures_of(metric, "mean")
    columns = ["std", "median", "p05", "p95", "count", "undefined"]
    assert [list(column) for column in np.transpose(mean.customdata)] == [
        figures_of(metric, column) for column in columns
    ]
    described = METRICS_BY_NAME[metric]
    assert figure.layout.title.text.startswith(described.label)
    assert ("higher" if described.better == "high" else "lower") in figure.layout.title.text
    assert described.unit in figure.layout.yaxis.title.text


def test_the_band_is_one_standard_deviation_above_and_below():
    figure = charts.metric_against_k(STATISTICS, "ssim")
    mean, deviation = np.array(figures_of("ssim", "mean")), np.array(figures_of("ssim", "std"))
    assert trace(figure, "mean ± standard deviation").y == pytest.approx(mean + deviation)
    assert trace(figure, "mean ± standard deviation, lower edge").y == pytest.approx(mean - deviation)
    assert trace(figure, "mean ± standard deviation").fill == "tonexty"
    assert vertical_lines(figure) == []


def test_a_sweep_of_one_image_has_a_line_and_no_band():
    figure = charts.metric_against_k(summarise(measurements(images=1)), "ssim")
    assert len(trace(figure, "mean").y) == 3
    assert len(trace(figure, "mean ± standard deviation").x) == 0


def test_k_is_sorted_as_a_number():
    statistics = summarise(measurements(ks=(1000, 50, 200)))
    figure = charts.metric_against_k(statistics.iloc[::-1], "ssim")
    assert list(trace(figure, "mean").x) == [50, 200, 1000]


def test_each_chosen_k_is_marked_once_with_its_number():
    figure = charts.metric_against_k(STATISTICS, "ssim", [300, 200, 300])
    assert vertical_lines(figure) == [200, 300]
    assert notes(figure) == ["200", "300"]
    assert notes(charts.metric_against_k(STATISTICS, "ssim", [200])) == ["k = 200"]


def test_small_multiples_show_each_metric_in_its_own_panel():
    names = ["rmse", "ssim", "hu_distance", "mse_high"]
    figure = charts.small_multiples(STATISTICS, names, [200])
    means = [each for each in figure.data if each.name == "mean"]
    assert [list(each.y) for each in means] == [figures_of(name, "mean") for name in names]
    assert len({each.yaxis for each in means}) == 4
    titles = [" ".join(text.split("<br>")) for text in notes(figure)]
    assert titles == [
        "RMSE (grey levels) ↓",
        "SSIM ↑",
        "Hu moments, distance ↓",
        "Spectral error, high frequencies (grey levels²) ↓",
    ]
    assert vertical_lines(figure) == [200] * 4


def test_small_multiples_leave_out_metrics_without_any_value():
    statistics = summarise(SWEEP.assign(psnr=None))
    figure = charts.small_multiples(statistics, ["psnr", "ssim"])
    assert len([each for each in figure.data if each.name == "mean"]) == 1


def test_the_storage_chart_shows_the_four_sizes_in_one_unit():
    figure = charts.storage_against_k(STORAGE, break_even=256.9, chosen_ks=[300])
    names = {
        "source files": "source_bytes",
        "re-encoded without SVD": "control_bytes",
        "stored reconstructions": "stored_bytes",
        "SVD factors (float16)": "factor_bytes",
    }
    assert {each.name for each in figure.data} == set(names)
    for name, column in names.items():
        assert list(trace(figure, name).x) == list(KS)
        assert list(trace(figure, name).customdata) == list(STORAGE[column])
        assert trace(figure, name).y == pytest.approx(STORAGE[column].astype(float) / 1e6)
    assert "MB" in figure.layout.yaxis.title.text
    assert vertical_lines(figure) == [256.9, 300]
    assert any("256.9" in note for note in notes(figure))


def test_the_storage_chart_of_a_large_data_set_is_in_gigabytes():
    large = STORAGE.assign(source_bytes=2_720_000_000)
    figure = charts.storage_against_k(large)
    assert trace(figure, "source files").y == pytest.approx([2.72] * 3)
    assert "GB" in figure.layout.yaxis.title.text


def test_the_storage_chart_leaves_out_an_unknown_size():
    figure = charts.storage_against_k(STORAGE.assign(control_bytes=pd.array([None] * 3, dtype="Int64")))
    assert "re-encoded without SVD" not in {each.name for each in figure.data}
    assert len(figure.data) == 3


def test_the_rate_distortion_chart_draws_codecs_and_the_sweep_on_one_scale():
    figure = charts.rate_distortion(SWEEP_POINTS, RIVAL_POINTS, "ssim", 200)
    jpeg = RIVAL_POINTS[RIVAL_POINTS["codec"] == "jpeg"].sort_values("quality")
    assert list(trace(figure, "JPEG").x) == list(jpeg["bytes_per_pixel"])
    assert list(trace(figure, "JPEG").y) == list(jpeg["ssim"])
    assert [label for label, _ in trace(figure, "JPEG").customdata] == ["JPEG 70", "JPEG 80", "JPEG 90"]
    svd = trace(figure, "SVD, stored as JPEG 95")
    assert list(svd.x) == list(SWEEP_POINTS["bytes_per_pixel"])
    assert list(svd.y) == list(SWEEP_POINTS["ssim"])
    assert svd.marker.size[1] > svd.marker.size[0] == svd.marker.size[2]


def test_a_codec_with_an_undefined_metric_is_named_instead_of_drawn():
    figure = charts.rate_distortion(SWEEP_POINTS, RIVAL_POINTS, "psnr")
    assert "PNG" not in {each.name for each in figure.data}
    assert figure.layout.title.subtitle.text.endswith("undefined there: PNG.")


def test_the_rate_distortion_chart_can_be_drawn_without_codecs():
    figure = charts.rate_distortion(SWEEP_POINTS, RIVAL_POINTS.iloc[:0], "ssim")
    assert [each.name for each in figure.data] == ["SVD, stored as JPEG 95"]


def test_the_spectrum_shows_singular_values_and_their_cumulative_energy():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    factors = decompose(image)
    figure = charts.spectrum(factors.singular_values, "per_channel")
    for position, channel in enumerate(("blue", "green", "red")):
        values = trace(figure, f"singular value, {channel}")
        assert list(values.x) == list(range(1, 21))
        assert list(values.y) == list(factors.singular_values[position])
    energy = trace(figure, "energy held, mean")
    assert energy.y == pytest.approx([100 * factors.explained_variance(k) for k in range(1, 21)])
    assert figure.layout.yaxis.type == "log"
    assert energy.yaxis == "y2"


def test_an_unfolded_spectrum_is_one_curve_and_zeros_are_not_drawn():
    figure = charts.spectrum(np.array([[3.0, 4.0, 0.0]])[:, [1, 0, 2]], "unfolded")
    values = trace(figure, "singular value, all channels").y
    assert list(values[:2]) == [4.0, 3.0]
    assert np.isnan(values[2])
    assert trace(figure, "energy held, mean").y == pytest.approx([64, 100, 100])


def test_a_black_image_has_no_spectrum():
    assert "black" in notes(charts.spectrum(np.zeros((3, 5)), "per_channel"))[0]


def test_a_black_channel_is_left_out_of_the_mean_energy():
    energy = charts.cumulated_energy(np.array([[2.0, 1.0], [0.0, 0.0]]))
    assert energy == pytest.approx([0.8, 1.0])


def test_histograms_are_the_counts_of_each_channel():
    counts = np.random.default_rng(0).integers(0, 99, (2, 3, 256))
    figure = charts.histograms(*counts)
    for position, channel in enumerate(("blue", "green", "red")):
        assert list(trace(figure, f"{channel}, original").y) == list(counts[0, position])
        assert list(trace(figure, f"{channel}, reconstruction").y) == list(counts[1, position])


def test_classes_are_bars_divided_by_diagnosis_with_their_totals():
    classes = pd.DataFrame(
        [("melanoma", "mel", 1113, 614), ("non_melanoma", "bcc", 514, 327), ("non_melanoma", "df", 115, None)],
        columns=["label", "dx", "images", "lesions"],
    )
    figure = dataset_charts.class_counts(classes)
    assert [(list(each.y), list(each.x)) for each in figure.data] == [
        (["melanoma"], [1113]),
        (["non-melanoma"], [514]),
        (["non-melanoma"], [115]),
    ]
    assert [each.customdata[0] for each in figure.data] == ["614", "327", "unknown"]
    assert notes(figure) == ["1,113", "629"]


def test_a_distribution_keeps_the_order_of_its_values():
    counts = pd.DataFrame(
        [("5", "nevus", 3), ("50", "melanoma", 7), ("50", "nevus", 9), ("unknown", "nevus", 1)],
        columns=["value", "label", "images"],
    )
    figure = dataset_charts.distribution(counts, "Age")
    assert list(figure.layout.xaxis.categoryarray) == ["5", "50", "unknown"]
    assert (list(trace(figure, "nevus").x), list(trace(figure, "nevus").y)) == (["5", "50", "unknown"], [3, 9, 1])
    assert list(trace(figure, "melanoma").y) == [7]
    assert "years" in figure.layout.xaxis.title.text


def test_long_names_are_drawn_as_horizontal_bars_from_the_top():
    places = ["back", "lower extremity", "trunk", "abdomen", "unknown"]
    counts = pd.DataFrame({"value": places, "label": "nevus", "images": [5, 4, 3, 2, 1]})
    figure = dataset_charts.distribution(counts, "Localisation")
    assert (list(figure.data[0].y), list(figure.data[0].x)) == (places, [5, 4, 3, 2, 1])
    assert list(figure.layout.yaxis.categoryarray) == places[::-1]


def test_a_class_has_the_same_colour_whichever_classes_are_drawn():
    counts = pd.DataFrame({"value": ["male"] * 2, "label": ["melanoma", "nevus"], "images": [5, 4]})
    both = trace(dataset_charts.distribution(counts, "Sex"), "nevus").marker.color
    assert trace(dataset_charts.distribution(counts[1:], "Sex"), "nevus").marker.color == both


def test_input_sizes_are_sorted_by_their_number_of_pixels():
    statistics = pd.concat(
        summarise(measurements(ks=(350,)).assign(variant=variant)) for variant in ("300x600", "200x100", "450x150")
    )
    figure = charts.metric_by_size(statistics, "psnr")
    assert list(figure.data[0].x) == ["200 × 100", "450 × 150", "300 × 600"]
    rows = statistics[statistics["metric"] == "psnr"].set_index("variant").loc[["200x100", "450x150", "300x600"]]
    assert list(figure.data[0].y) == list(rows["mean"])
    assert list(figure.data[0].error_y.array) == list(rows["std"])


def test_parameters_are_drawn_for_every_network_that_can_be_built():
    counts = pd.DataFrame(
        [
            ("LeNet-5", "300x300", 500),
            ("LeNet-5", "20x10", None),
            ("AlexNet", "300x300", 9000),
            ("AlexNet", "20x10", 8),
        ],
        columns=["network", "variant", "parameters"],
    )
    figure = charts.parameters_by_size(counts)
    assert (list(trace(figure, "LeNet-5").x), list(trace(figure, "LeNet-5").y)) == (["300 × 300"], [500])
    assert list(trace(figure, "AlexNet").y) == [9000, 8]
    assert list(figure.layout.xaxis.categoryarray) == ["20 × 10", "300 × 300"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda theme: charts.metric_against_k(STATISTICS.iloc[:0], "ssim", [100], theme=theme),
        lambda theme: charts.small_multiples(STATISTICS.iloc[:0], ["ssim", "mse"], theme=theme),
        lambda theme: charts.storage_against_k(STORAGE.iloc[:0], 256.9, [100], theme=theme),
        lambda theme: charts.rate_distortion(SWEEP_POINTS.iloc[:0], RIVAL_POINTS.iloc[:0], "ssim", theme=theme),
        lambda theme: charts.rate_distortion(EMPTY, EMPTY, "ssim", theme=theme),
        lambda theme: dataset_charts.class_counts(EMPTY, theme=theme),
        lambda theme: dataset_charts.distribution(EMPTY, "Age", theme=theme),
        lambda theme: charts.metric_by_size(STATISTICS.iloc[:0], "ssim", theme=theme),
        lambda theme: charts.parameters_by_size(EMPTY, theme=theme),
        lambda theme: charts.spectrum(np.zeros((1, 0)), "unfolded", theme=theme),
    ],
)
@pytest.mark.parametrize("theme", [None, "light", "dark"])
def test_without_data_a_chart_is_a_transparent_figure_with_a_note(draw, theme):
    figure = draw(theme)
    assert len(figure.data) == 0
    assert len(notes(figure)) == 1
    assert figure.layout.title.text
    assert not figure.layout.xaxis.visible
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_each_theme_has_its_own_colours():
    colours = {
        theme: trace(charts.metric_against_k(STATISTICS, "ssim", theme=theme), "mean").line.color
        for theme in ("light", "dark")
    }
    assert colours == {"light": "#0072B2", "dark": "#56B4E9"}
    assert trace(charts.metric_against_k(STATISTICS, "ssim"), "mean").line.color == colours["light"]


@pytest.mark.parametrize(("theme", "page"), [("light", "#FFFFFF"), ("light", "#11191E"), ("dark", "#11191E")])
def test_every_colour_has_enough_contrast_with_the_page(theme, page):
    assert all(contrast(colour, page) >= 3 for colour in style.PALETTES[theme])


def contrast(first, second):
    """The contrast ratio of WCAG 2.2, 1 to 21."""
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour):
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
