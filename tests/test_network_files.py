"""Users' own networks: valid files, and errors with the line."""

import os
import socket
from pathlib import Path

import pytest

from core.errors import SpecError
from core.networks.architectures import ALEXNET, NETWORKS, Conv, Dense, NetworkSpec, Residual
from core.networks.costs import check_trainable, curve_table, layer_table, network_cost
from core.networks.network_files import (
    EXAMPLE_YAML,
    MAX_BYTES,
    all_networks,
    load_network,
    load_networks,
)
from core.networks.plain_data import network_from_dict, network_to_dict
from core.networks.plain_yaml import plain_scalar, read_yaml


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_the_example_file_is_a_valid_network(tmp_path) -> None:
    one = load_network(written(tmp_path, "small.yaml", EXAMPLE_YAML))
    assert one.name == "small"
    assert one.source == "file small.yaml"
    assert one.head == (Dense(16), Dense(4)), "the text branch and the head are those of Table 1"
    assert one.title == "A small network"
    assert one.readings == ("Global pooling instead of flatten keeps the dense layers small.",)
    assert len(one.image) == 8
    assert one.image[0] == Conv(16, 5, stride=2)
    assert one.image[3] == Residual(32)
    assert one.image[-1] == Dense(32)


def test_a_users_network_is_listed_and_counted_like_the_four(tmp_path) -> None:
    (tmp_path / "networks").mkdir()
    written(tmp_path / "networks", "small.yaml", EXAMPLE_YAML)
    found = all_networks(tmp_path)
    assert list(found.networks) == [*NETWORKS, "small"]
    assert found.left_out == {}
    small = found.networks["small"]
    assert layer_table(small, 200, 100)["parameters"].sum() == network_cost(small, 200, 100).parameters
    assert len(curve_table([small], [50], ["first"], 3, 200, 100)) == 4


def test_without_a_folder_there_are_the_four_networks(tmp_path) -> None:
    assert all_networks(tmp_path / "nothing").networks == NETWORKS


def test_an_article_network_can_be_written_to_yaml_and_read_back(tmp_path) -> None:
    yaml = pytest.importorskip("yaml")
    path = written(tmp_path, "own.yaml", yaml.safe_dump(network_to_dict(ALEXNET) | {"name": "own"}, allow_unicode=True))
    own = load_network(path)
    assert own.image == ALEXNET.image
    assert own.readings == ALEXNET.readings


YAML = """\
image:
  - layer: conv
    filters: 8
    kernel: 3
  - {layer: flatten}
  - layer: dense
    units: 16
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("filters: 8", "filters: 0", 3, "image, layer 1: Expected the filters of conv .* got 0"),
        ("filters: 8", "filters: eight", 3, "got 'eight'"),
        ("filters: 8", "filters: 8.5", 3, "got 8.5"),
        ("filters: 8", "filters: yes", 3, "got 'yes'"),
        ("filters: 8", "filters:", 3, "got None"),
        ("filters: 8", "filtres: 8", 3, "Expected filters, .*, padding for conv, got the unknown field 'filtres'"),
        ("    kernel: 3\n", "", 2, "Expected the kernel of conv, got none"),
        ("layer: dense", "layer: danse", 6, "Expected layer to be one of .* got 'danse'"),
        ("  - {layer: flatten}\n", "", 5, "Expected a flatten in image before the first dense"),
        ("    kernel: 3", "    kernel: 3\n    filters: 9", 5, "Expected each field once, got filters again"),
        ("    kernel: 3", "  kernel: 3", 4, "Expected YAML, got: "),
        ("units: 16", "units: [16", 8, "Expected YAML, got: "),
        ("units: 16", "units: 2026-99-99", 7, "Expected the units of dense .* got '2026-99-99'"),
        ("units: 16", "units: !!python/object:os.system x", 7, "without tags, got the tag !!python/object"),
        ("units: 16", "units: &a 16\n  - {layer: dense, units: *a}", 8, r"every layer written out, got the alias \*a"),
        ("units: 16", "units: 16\nhead:\n  - {layer: dense, units: 5}", 9, "dense of 4 units"),
        ("units: 16", "units: 16\nname: my net", 8, "Expected a name of 1 to 40 letters"),
        ("units: 16", "units: 16\n? [a]\n: 1", 8, "Expected a word before the colon"),
        ("units: 16", "units: 1\x006", 7, "Expected text, got the character"),
        ("image:", "picture:", 1, "unknown field 'picture'"),
    ],
)  # fmt: skip
def test_an_error_in_yaml_names_file_and_line(tmp_path, old, new, line, message) -> None:
    assert old in YAML
    path = written(tmp_path, "mine.yaml", YAML.replace(old, new))
    with pytest.raises(SpecError, match=rf"(?s)^mine.yaml, line {line}: .*{message}"):
        load_network(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.yaml", "", "line 1: Expected fields such as image, got None"),
        ("list.yml", "- 1", r"line 1: Expected fields such as image, got \[1\]"),
        ("none.yaml", "{}", "line 1: Expected an image branch"),
        ("deep.yaml", "a: " + "[" * 3000 + "]" * 3000, "line 1: Expected a list of layers, got lists 21 deep"),
        ("latin.yaml", "image: []\ntitle: M\xfcnchen".encode("latin-1"), "line 2: Expected UTF-8 text"),
        ("large.yaml", b"#" * (MAX_BYTES + 1), f"Expected at most {MAX_BYTES} bytes, got {MAX_BYTES + 1}"),
        ("a b.yaml", YAML, "Expected a name of 1 to 40 letters, digits, - and _, got 'a b'"),
        ("net.json", "{}", "Expected a file ending in .yaml, .yml, got .json"),
    ],
)
def test_a_file_that_is_not_a_network_raises_an_error_with_the_expectation(tmp_path, name, content, message) -> None:
    with pytest.raises(SpecError, match=f"^{name}.*{message}"):
        load_network(written(tmp_path, name, content))


def test_windows_line_endings_and_a_byte_order_mark_are_accepted(tmp_path) -> None:
    plain = load_network(written(tmp_path, "mine.yaml", YAML))
    path = written(tmp_path, "mine.yaml", b"\xef\xbb\xbf" + YAML.replace("\n", "\r\n").encode())
    assert load_network(path) == plain


def test_an_invalid_file_is_left_out_with_its_reason_and_others_are_loaded(tmp_path) -> None:
    written(tmp_path, "broken.yaml", YAML.replace("filters: 8", "filters: 0"))
    written(tmp_path, "good.yaml", YAML)
    written(tmp_path, "lenet5.yaml", YAML)
    written(tmp_path, "other.yml", "name: good\n" + YAML)
    written(tmp_path, "notes.txt", "nothing")
    (tmp_path / "folder.yaml").mkdir()
    found = load_networks(tmp_path)
    assert list(found.networks) == ["good"]
    assert found.left_out == {
        "broken.yaml": "broken.yaml, line 3: image, layer 1: "
        "Expected the filters of conv to be a whole number from 1 to 100,000, got 0.",
        "folder.yaml": "Expected folder.yaml to be a readable file, got: Is a directory.",
        "lenet5.yaml": "Expected a unique name in lenet5.yaml, got lenet5, which is the name of the article's network.",
        "other.yml": "Expected a unique name in other.yml, got good, which is the name of file good.yaml.",
    }


@pytest.mark.parametrize(
    "value",
    ["!!bool maybe", "!!int ''", "!!float ''", "!!timestamp soon", "!!int x", "!own 1", "!!str 8", "! 8"],
)
def test_any_yaml_tag_is_refused_with_its_line(tmp_path, value) -> None:
    written(tmp_path, "bad.yaml", YAML.replace("filters: 8", f"filters: {value}"))
    written(tmp_path, "good.yaml", YAML)
    found = load_networks(tmp_path)
    assert list(found.networks) == ["good"]
    assert list(found.left_out) == ["bad.yaml"]
    assert found.left_out["bad.yaml"].startswith("bad.yaml, line 3: Expected text and numbers without tags, got the")


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        *(
            ("064", 64),
            ("0o64", 52),
            ("0x40", 64),
            ("-3", -3),
            ("0.25", 0.25),
            (".5", 0.5),
            ("2.", 2.0),
            ("1e3", 1000.0),
        ),
        *((word, word) for word in ("1:30", "yes", "no", "on", "Off", "1_000", "0b11", "2026-01-31", "=", "<<", "0o8")),
        *(("", None), ("~", None), ("Null", None), ("true", True), ("FALSE", False), ("tRUE", "tRUE")),
        (".inf", float("inf")),
    ],
)
def test_plain_scalars_follow_yaml_1_2(word, meaning) -> None:
    assert (plain_scalar(word), type(plain_scalar(word))) == (meaning, type(meaning))
    assert read_yaml(f"- {word}\n- '{word}'")[0] == [meaning, word]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("filters: 8", "filters: 0x" + "f" * 5000, 3, "at most 15 digits, got one of 5000"),
        ("filters: 8", "filters: " + "9" * 5000, 3, "at most 15 digits, got one of 5000"),
        ("filters: 8", "filters: 1:30", 3, "got '1:30'"),
        ("filters: 8", "filters: 100001", 3, "Expected the filters of conv to be .* to 100,000, got 100001"),
        ("kernel: 3", "kernel: 10001", 4, "Expected the kernel of conv to be .* to 10,000, got 10001"),
        ("units: 16", "units: 999999999999999", 7, "Expected the units of dense to be .* to 100,000"),
        ("units: 16", "units: .inf", 7, "got inf"),
        ("units: 16", "units: 1e999", 7, "got inf"),
        ("kernel: 3", "kernel: 3\n    stride: 10001", 5, "Expected the stride of conv to be .* to 10,000"),
        ("filters: 8", "filters: 99999", 1, "Expected layers of mine with at most 1,000,000,000 numbers per image"),
        ("units: 16", "units: 99999", 1, "Expected mine to have at most 4,000,000,000 parameters at 200×100, got"),
        ("units: 16", "units: 16\ntitle: " + "x" * 201, 8, "at most 200 characters, got 201"),
        ("units: 16", 'units: 16\ntitle: "\\e[31mred"', 8, "Expected text that can be printed"),
        ("units: 16", 'units: 16\ntitle: "\\ud800"', 8, "Expected text that can be printed"),
        ("units: 16", 'units: 16\ntitle: "\\UFFFFFFFF"', 7, "a character or version that does not exist"),
        ("image:", "%YAML " + "1" * 5000 + ".1\n---\nimage:", 1, "a character or version that does not exist"),
        ("units: 16", "units: 16\n---\nimage: []", 9, "Expected one document"),
        ("image:", "? &a {b: 1}\n: *a\nimage:", 1, "Expected a word before the colon"),
        ("units: 16", "units: " + "y" * 15_000, 7, "at most 200 characters, got 15000"),
    ],
)  # fmt: skip
def test_errors_about_huge_numbers_and_texts_are_short(tmp_path, old, new, line, message) -> None:
    assert old in YAML
    path = written(tmp_path, "mine.yaml", YAML.replace(old, new))
    with pytest.raises(SpecError, match=rf"(?s)^mine.yaml, line {line}: .*{message}") as raised:
        load_network(path)
    assert len(str(raised.value)) < 500
    assert str(raised.value).isprintable()


def test_a_toml_file_is_left_out_with_instructions_to_write_yaml(tmp_path) -> None:
    written(tmp_path, "mine.toml", '[[image]]\nlayer = "flatten"\n')
    os.mkfifo(tmp_path / "pipe.toml")
    found = load_networks(tmp_path)
    assert found.networks == {}
    assert list(found.left_out) == ["mine.toml", "pipe.toml"]
    reason = found.why_not("mine") or ""
    assert reason.startswith("mine.toml: Expected a YAML file, got TOML, which is no longer read. Write it as YAML: ")
    assert "`- {layer: conv, filters: 16, kernel: 5}`" in reason
    assert reason.endswith("The page Networks has an example."), "the complete reason is shown"


def test_more_than_500_layers_are_refused(tmp_path) -> None:
    many = "image: [" + "{layer: flatten}," * 501 + "]"
    with pytest.raises(SpecError, match="Expected at most 500 layers in image, got 501"):
        load_network(written(tmp_path, "many.yaml", many))


def test_a_network_from_the_queue_has_the_same_bounds() -> None:
    with pytest.raises(
        SpecError, match=r"Expected the units of dense to be .* to 100,000, got a number of more than 15 digits"
    ):
        network_from_dict({"name": "own", "image": [{"layer": "flatten"}, {"layer": "dense", "units": 10**6000}]})
    wide = NetworkSpec("own", "own", "", (), (*ALEXNET.image[:-3], Dense(100_000), Dense(100_000)), *HEADS)
    with pytest.raises(SpecError, match="Expected own to have at most 4,000,000,000 parameters"):
        check_trainable(wide, 200, 100)
    check_trainable(ALEXNET, 20, 10)  # the input is too small, but another check reports that


HEADS = (ALEXNET.metadata, ALEXNET.head)


def test_only_regular_files_are_opened(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "folder.yaml").mkdir()
    written(tmp_path, "good.yaml", YAML)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s.yaml"))
        found = load_networks(tmp_path)
    assert list(found.networks) == ["good"]
    kind = "to be a readable file, got: It is a pipe, socket or device."
    assert found.left_out == {
        "dangling.yaml": "Expected dangling.yaml to be a readable file, got: No such file or directory.",
        "device.yaml": f"Expected device.yaml {kind}",
        "folder.yaml": "Expected folder.yaml to be a readable file, got: Is a directory.",
        "loop.yaml": "Expected loop.yaml to be a readable file, got: Too many levels of symbolic links.",
        "pipe.yaml": f"Expected pipe.yaml {kind}",
        "s.yaml": f"Expected s.yaml {kind}",
    }


def test_a_file_with_an_unprintable_name_is_left_out_under_a_printable_one(tmp_path) -> None:
    own = "name: own\n" + YAML
    names = ("<b>.yaml", "a\nb.yaml", "\x1b[31m.yaml", "x" * 200 + ".yaml", "\udcff.yaml", "![](x).yaml")
    for name in names:
        written(tmp_path, name, own)
    written(tmp_path, "Größe 2.yaml", own)
    found = load_networks(tmp_path)
    assert {name: spec.source for name, spec in found.networks.items()} == {"own": "file Größe 2.yaml"}
    assert len(found.left_out) == len(names)
    for name, reason in found.left_out.items():
        assert name.isprintable()
        assert reason.isprintable()
        assert "Expected a file name of at most 100 letters" in reason


def test_a_file_in_place_of_the_networks_folder_is_reported(tmp_path) -> None:
    written(tmp_path, "networks", "nothing")
    found = all_networks(tmp_path)
    assert found.networks == NETWORKS
    assert found.left_out == {"networks": "Expected networks to be a folder of network files, got: Not a directory."}
