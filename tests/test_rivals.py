import numpy as np
import pandas as pd
import pytest

from core.compression.rivals import compare_rivals, rate_points, rivals_sentences
from core.compression.summary import storage, summarise
from core.errors import SpecError


def rows(variant, *, ssim, psnr=40.0, haralick=2.0, stored=1000, k=None, codec="jpeg", quality=95, images=2, mse=1.0):
    return pd.DataFrame(
        {
            "image_id": [f"ISIC_{image}" for image in range(images)],
            "variant": variant,
            "k": k,
            "codec": codec,
            "quality": quality,
            "height": 10,
            "width": 20,
            "source_bytes": 5000,
            "stored_bytes": stored,
            "control_bytes": None,
            "factor_bytes": None,
            "mse": mse,
            "ssim": ssim,
            "psnr": psnr,
            "haralick_distance": haralick,
            "reason": None,
        }
    )


SWEEP = pd.concat(
    [
        rows("k=100", k=100, ssim=0.9342, psnr=39.8, haralick=11.0, stored=800),
        rows("k=350", k=350, ssim=0.9559, psnr=41.5, haralick=1.65, stored=1000),
    ]
)
RIVALS = pd.concat(
    [
        rows("jpeg 95", quality=95, ssim=0.96, psnr=42.0, haralick=1.9, stored=1010),
        rows("jpeg 80", quality=80, ssim=0.94, psnr=38.0, haralick=4.0, stored=400),
        rows("jpeg 90", quality=90, ssim=0.956, psnr=40.0, haralick=2.0, stored=690),
        rows("webp 80", codec="webp", quality=80, ssim=0.97, psnr=45.0, haralick=1.0, stored=1250),
        rows("avif 50", codec="avif", quality=50, ssim=0.90, psnr=30.0, haralick=9.0, stored=950),
        rows("png", codec="png", quality=None, ssim=1.0, psnr=np.nan, haralick=0.0, stored=4000, mse=0.0),
    ]
)


def compared(metric, codec, sweep=SWEEP, rivals=RIVALS, k=350):
    found = [each for each in compare_rivals(sweep, rivals, k) if (each.metric, each.codec) == (metric, codec)]
    assert len(found) == 1
    return found[0]


def test_the_smallest_sufficient_quality_is_compared():
    comparison = compared("ssim", "jpeg")
    assert (comparison.quality, comparison.reached, comparison.images) == (90, True, 2)
    assert (comparison.svd_bytes, comparison.rival_bytes) == (2000, 1380)
    assert comparison.percent == pytest.approx(-31)
    assert comparison.sentence.startswith("At the SSIM of k = 350 (0.9559), JPEG 90 needs 31 % fewer bytes.")


def test_an_equal_mean_is_sufficient():
    rivals = rows("jpeg 85", quality=85, ssim=0.9559)
    comparison = compared("ssim", "jpeg", rivals=rivals)
    assert (comparison.quality, comparison.reached) == (85, True)


def test_the_interpolation_is_linear_between_two_measured_qualities():
    comparison = compared("ssim", "jpeg")
    share = (0.9559 - 0.94) / (0.956 - 0.94)
    assert comparison.interpolated_quality == pytest.approx(80 + 10 * share)
    assert comparison.interpolated_percent == pytest.approx(100 * ((400 + 290 * share) / 1000 - 1))
    assert comparison.sentence.endswith(
        "Interpolated between the measured qualities, JPEG 89.9 needs 31 % fewer bytes."
    )


def test_a_codec_that_needs_more_bytes_is_described_as_such():
    assert compared("psnr", "jpeg").sentence.startswith("At the PSNR of k = 350 (41.5 dB), JPEG 95 needs 1.0 % more")
    assert "PNG needs 300 % more bytes" in compared("ssim", "png").sentence


def test_a_codec_at_its_lowest_measured_quality_gets_a_note():
    comparison = compared("ssim", "webp")
    assert comparison.lowest
    assert comparison.interpolated_quality is None
    assert comparison.sentence == (
        "At the SSIM of k = 350 (0.9559), WebP 80 needs 25 % more bytes. "
        "It is the lowest quality measured, so a lower one may suffice."
    )


def test_a_codec_that_does_not_reach_the_value_shows_its_nearest_quality():
    comparison = compared("ssim", "avif")
    assert not comparison.reached
    assert comparison.sentence == (
        "No measured quality of AVIF reaches the SSIM of k = 350 (0.9559); "
        "AVIF 50, the nearest, has 0.9 and needs 5.0 % fewer bytes."
    )


def test_lower_is_better_for_the_haralick_distance():
    comparison = compared("haralick_distance", "jpeg")
    assert not comparison.reached
    assert comparison.quality == 95
    assert "reaches the Haralick distance of k = 350 (1.65); JPEG 95, the nearest, has 1.9" in comparison.sentence
    assert compared("haralick_distance", "jpeg", k=100).quality == 80


def test_identical_images_have_an_infinite_psnr():
    comparison = compared("psnr", "png")
    assert comparison.reached
    assert comparison.value == np.inf
    assert comparison.percent == pytest.approx(300)


def test_equal_sizes_are_described_as_equal():
    rivals = rows("jpeg 95", ssim=0.99)
    assert "JPEG 95 needs as many bytes." in compared("ssim", "jpeg", rivals=rivals).sentence


def test_only_images_that_both_runs_measured_are_compared():
    sweep = pd.concat([rows("k=350", k=350, ssim=[0.5, 0.9, 0.1], stored=[100, 200, 900], images=3)])
    rivals = pd.concat(
        [
            rows("jpeg 80", quality=80, ssim=[0.2, 0.7, 0.9], stored=[10, 50, 60], images=3),
            rows("jpeg 90", quality=90, ssim=[0.9, 0.9, 0.9], stored=[20, 100, 70], images=3),
        ]
    )
    rivals.loc[(rivals["image_id"] == "ISIC_0") & (rivals["quality"] == 80), "reason"] = "not encoded"
    rivals = rivals[rivals["image_id"] != "ISIC_2"]
    comparison = compared("ssim", "jpeg", sweep=sweep, rivals=rivals)
    assert (comparison.images, comparison.svd_bytes, comparison.rival_bytes) == (1, 200, 100)
    assert (comparison.target, comparison.quality) == (0.9, 90)


def test_runs_without_a_common_image_give_one_sentence():
    elsewhere = RIVALS.assign(image_id=RIVALS["image_id"] + "b")
    assert compare_rivals(SWEEP, elsewhere, 350) == ()
    assert rivals_sentences(SWEEP, elsewhere, 350) == (
        "No codec can be compared with k = 350: the two runs have no image in common.",
    )
    assert len(rivals_sentences(SWEEP, RIVALS.iloc[:0], 350)) == 1


def test_an_undefined_target_gives_one_sentence():
    sweep = rows("k=350", k=350, ssim=None)
    sentences = rivals_sentences(sweep, RIVALS, 350, ["ssim"])
    assert sentences == ("The SSIM of k = 350 is undefined for these images, so no codec can be compared by it.",)


def test_every_metric_and_codec_has_a_sentence():
    sentences = rivals_sentences(SWEEP, RIVALS, 350)
    assert len(sentences) == 3 * 4
    assert [sum(f"the {name} of" in sentence for sentence in sentences) for name in ("SSIM", "PSNR")] == [4, 4]


def test_a_k_that_was_not_measured_is_refused():
    with pytest.raises(SpecError, match=r"\[100, 350\], got 200"):
        compare_rivals(SWEEP, RIVALS, 200)


def test_rate_points_have_bytes_per_pixel_and_mean_metrics():
    points = rate_points(summarise(RIVALS), storage(RIVALS)).set_index("label")
    assert set(points.index) == {"JPEG 80", "JPEG 90", "JPEG 95", "WebP 80", "AVIF 50", "PNG"}
    assert points.loc["JPEG 90", "bytes_per_pixel"] == pytest.approx(690 / 200)
    assert points.loc["JPEG 90", "ssim"] == pytest.approx(0.956)
    sweep = rate_points(summarise(SWEEP), storage(SWEEP))
    assert list(sweep["label"]) == ["k = 100", "k = 350"]
    assert list(sweep["bytes_per_pixel"]) == [4.0, 5.0]
    assert list(sweep["haralick_distance"]) == [11.0, 1.65]


def test_rate_points_without_measurements_are_an_empty_table():
    nothing = SWEEP.iloc[:0]
    points = rate_points(summarise(nothing), storage(nothing))
    assert points.empty
    assert "bytes_per_pixel" in points
