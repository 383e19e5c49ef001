import numpy as np
import pandas as pd
import pytest

from core.compression.rivals import rate_points, rivals_sentences
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
    found = [each for each in rivals_sentences(sweep, rivals, k, metric) if codec in each]
    assert len(found) == 1
    return found[0]


def test_the_smallest_sufficient_quality_is_compared():
    assert compared("ssim", "JPEG").startswith("At the SSIM of k = 350 (0.9559), JPEG 90 needs 31 % fewer bytes.")


def test_an_equal_mean_is_sufficient():
    rivals = rows("jpeg 85", quality=85, ssim=0.9559, stored=1003)
    assert compared("ssim", "JPEG", rivals=rivals) == (
        "At the SSIM of k = 350 (0.9559), JPEG 85 needs 0.3 % more bytes. "
        "It is the lowest quality measured, so a lower one may suffice."
    )


def test_the_interpolation_is_linear_between_two_measured_qualities():
    # At 0.9559 a share of 0.99375 of the way from quality 80 (400 bytes) to 90 (690 bytes): 89.9 and 688.2 bytes
    ending = "Interpolated between the measured qualities, JPEG 89.9 needs 31 % fewer bytes."
    assert compared("ssim", "JPEG").endswith(ending)
    # At 0.9342 a share of 0.71 of the way from quality 60 (700 bytes) to 70 (800 bytes): 67.1 and 771 bytes of 800
    rivals = pd.concat([rows("jpeg 60", quality=60, ssim=0.92, stored=700), rows("jpeg 70", quality=70, ssim=0.94)])
    rivals.loc[rivals["quality"] == 70, "stored_bytes"] = 800
    assert compared("ssim", "JPEG", rivals=rivals, k=100) == (
        "At the SSIM of k = 100 (0.9342), JPEG 70 needs as many bytes. "
        "Interpolated between the measured qualities, JPEG 67.1 needs 3.6 % fewer bytes."
    )


def test_a_codec_that_needs_more_bytes_is_described_as_such():
    assert compared("psnr", "JPEG").startswith("At the PSNR of k = 350 (41.5 dB), JPEG 95 needs 1.0 % more")
    assert "PNG needs 300 % more bytes" in compared("ssim", "PNG")


def test_a_codec_at_its_lowest_measured_quality_gets_a_note():
    assert compared("ssim", "WebP") == (
        "At the SSIM of k = 350 (0.9559), WebP 80 needs 25 % more bytes. "
        "It is the lowest quality measured, so a lower one may suffice."
    )


def test_a_codec_that_does_not_reach_the_value_shows_its_nearest_quality():
    assert compared("ssim", "AVIF") == (
        "No measured quality of AVIF reaches the SSIM of k = 350 (0.9559); "
        "AVIF 50, the nearest, has 0.9 and needs 5.0 % fewer bytes."
    )


def test_lower_is_better_for_the_haralick_distance():
    assert compared("haralick_distance", "JPEG") == (
        "No measured quality of JPEG reaches the Haralick distance of k = 350 (1.65); "
        "JPEG 95, the nearest, has 1.9 and needs 1.0 % more bytes."
    )
    assert "(11), JPEG 80 needs 50 % fewer bytes." in compared("haralick_distance", "JPEG", k=100)


def test_identical_images_have_an_infinite_psnr():
    assert compared("psnr", "PNG") == "At the PSNR of k = 350 (41.5 dB), PNG needs 300 % more bytes."


def test_equal_sizes_are_described_as_equal():
    rivals = rows("jpeg 95", ssim=0.99)
    assert "JPEG 95 needs as many bytes." in compared("ssim", "JPEG", rivals=rivals)


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
    found = compared("ssim", "JPEG", sweep=sweep, rivals=rivals)
    assert found.startswith("At the SSIM of k = 350 (0.9), JPEG 90 needs 50 % fewer bytes.")


def test_runs_without_a_common_image_give_one_sentence():
    elsewhere = RIVALS.assign(image_id=RIVALS["image_id"] + "b")
    assert rivals_sentences(SWEEP, elsewhere, 350, "ssim") == (
        "No codec can be compared with k = 350: the two runs have no image in common.",
    )
    assert len(rivals_sentences(SWEEP, RIVALS.iloc[:0], 350, "ssim")) == 1


def test_an_undefined_target_gives_one_sentence():
    sweep = rows("k=350", k=350, ssim=None)
    sentences = rivals_sentences(sweep, RIVALS, 350, "ssim")
    assert sentences == ("The SSIM of k = 350 is undefined for these images, so no codec can be compared by it.",)


@pytest.mark.parametrize(("metric", "name"), [("ssim", "SSIM"), ("psnr", "PSNR"), ("haralick_distance", "Haralick")])
def test_every_codec_has_a_sentence(metric, name):
    sentences = rivals_sentences(SWEEP, RIVALS, 350, metric)
    assert len(sentences) == 4
    assert all(f"the {name}" in sentence for sentence in sentences)


def test_a_k_that_was_not_measured_is_refused():
    with pytest.raises(SpecError, match=r"\[100, 350\], got 200"):
        rivals_sentences(SWEEP, RIVALS, 200, "ssim")


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
