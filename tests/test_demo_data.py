"""The synthetic data set: the same for a seed, complete or created again, and as compressible as HAM10000."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from core.data import demo as demo_data
from core.data import images
from core.data.datasets import load_dataset
from core.data.demo import create_demo_dataset
from core.data.demo_pictures import RECIPES, draw
from core.errors import DatasetError, SpecError


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return create_demo_dataset(tmp_path_factory.mktemp("state") / "demo", images=24)


@pytest.fixture(scope="module")
def pictures(demo):
    return [images.decode(demo / record.path) for record in load_dataset(demo).records]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_demo_folder_is_a_synthetic_ham10000_data_set_with_equal_classes(demo):
    dataset = load_dataset(demo)
    assert (dataset.layout, dataset.synthetic, dataset.left_out) == ("ham10000", True, ())
    assert dataset.class_counts() == {"melanoma": 6, "nevus": 6, "non_melanoma": 6, "negative": 6}
    assert {(record.height, record.width) for record in dataset.records} == {(450, 600)}
    assert {record.path.split("/")[0] for record in dataset.records if record.dx is None} == {"negatives"}
    assert all(record.lesion_id for record in dataset.records)


def test_the_marker_file_says_that_the_images_are_synthetic(demo):
    text = (demo / "SYNTHETIC.txt").read_text()
    assert "24 images are synthetic" in text
    assert text.count("\n") == 1


def test_the_same_seed_gives_the_same_files_and_another_seed_other_files(demo, tmp_path):
    again = create_demo_dataset(tmp_path / "again", images=24)
    assert contents(again) == contents(demo)
    one, other = (next(demo_data.plan(4, seed)) for seed in (1, 2))
    assert not np.array_equal(draw(one, 1), draw(other, 2))


def test_a_complete_folder_is_kept_and_a_partial_one_is_created_again(tmp_path):
    folder = create_demo_dataset(tmp_path / "demo", images=4)
    whole = contents(folder)
    file = folder / next(path for path in whole if path.suffix == ".jpg")
    stamp = file.stat().st_mtime_ns
    assert create_demo_dataset(folder, images=4) == folder
    assert file.stat().st_mtime_ns == stamp
    for damage in (file, folder / "SYNTHETIC.txt", folder / "HAM10000_metadata.csv"):
        damage.unlink()
        create_demo_dataset(folder, images=4)
        assert contents(folder) == whole
    create_demo_dataset(folder, images=5)
    assert len(load_dataset(folder).records) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_an_interrupted_run_leaves_no_folder_that_looks_complete(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_demo_dataset(tmp_path / "demo", images=4, progress=interrupt)
    assert not (tmp_path / "demo").exists()
    create_demo_dataset(tmp_path / "demo", images=4)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_existing_files_are_never_overwritten(tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(DatasetError, match=r"Expected an empty folder .* holds thesis.docx"):
        create_demo_dataset(tmp_path, images=4)
    with pytest.raises(DatasetError, match="got the file"):
        create_demo_dataset(tmp_path / "thesis.docx", images=4)
    assert (tmp_path / "thesis.docx").read_text() == "years of work"


def test_too_few_images_raise_a_spec_error_and_progress_counts_each_image(tmp_path):
    with pytest.raises(SpecError, match="at least 4 images"):
        create_demo_dataset(tmp_path / "demo", images=3)
    calls = []
    create_demo_dataset(tmp_path / "demo", images=5, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(number, 5) for number in range(1, 6)]


def test_the_plan_has_several_photographs_per_lesion_and_some_unknown_metadata():
    photographs = list(demo_data.plan(2000, 1))
    assert len({photograph.image_id for photograph in photographs}) == 2000
    assert Counter(photograph.label for photograph in photographs) == dict.fromkeys(demo_data.LABELS, 500)
    assert {photograph.dx for photograph in photographs} == {*RECIPES, None}
    views = Counter(photograph.lesion for photograph in photographs)
    assert set(views.values()) == {1, 2, 3}
    people = {(p.lesion, p.label, p.dx, p.age, p.sex, p.localization) for p in photographs}
    assert len(people) == len(views), "photographs of one lesion belong to one person"
    for unknown in (None, "unknown"):
        values = [(p.age, p.sex, p.localization) for p in photographs]
        assert 0 < sum(unknown in value for value in values) < 200


def test_two_photographs_of_a_lesion_differ():
    one = next(demo_data.plan(4, 1))
    other = dataclasses.replace(one, number=one.number + 100)
    assert np.abs(draw(one, 1).astype(int) - draw(other, 1)).mean() > 5


def test_a_lesion_is_darker_than_the_skin_around_it(demo, pictures):
    contrasts = {True: [], False: []}
    for record, picture in zip(load_dataset(demo).records, pictures, strict=True):
        grey = images.grey(picture).astype(float)
        contrasts[record.label == "negative"].append(grey[:, [60, 540]].mean() - grey[150:300, 220:380].mean())
    assert np.mean(contrasts[False]) > np.mean(contrasts[True]) + 25


def test_file_sizes_resemble_ham10000(demo, pictures):
    """Originals: 277 kB each, 3.77 to 3.83 times their size through JPEG 95."""
    source = [record.bytes for record in load_dataset(demo).records]
    control = [len(images.encode(picture, "jpeg", 95)) for picture in pictures]
    assert np.mean(source) == pytest.approx(277_000, rel=0.2)
    assert sum(source) / sum(control) == pytest.approx(3.8, rel=0.15)


def test_the_singular_value_spectrum_resembles_ham10000(pictures):
    """Geometric means over 38 originals, mean of the channels."""
    originals = {0: 80_000, 9: 949, 49: 266, 99: 148, 199: 67, 349: 23}
    spectra = [
        np.linalg.svd(picture[:, :, c].astype(np.float32), compute_uv=False) for picture in pictures for c in range(3)
    ]
    measured = np.exp(np.log(spectra).mean(axis=0))
    for index, value in originals.items():
        assert 0.65 < measured[index] / value < 1.5, index
    energy = np.square(spectra)
    assert (energy[:, :100].sum(axis=1) / energy.sum(axis=1)).mean() == pytest.approx(0.9997, abs=0.0005)
