"""A second host: its workers share with the first only the queue, over TLS with a password, and read-only images.

The first host has a Valkey server, a record worker and their DATA_DIR. The second host has its own DATA_DIR, a working
folder and a copy of the images elsewhere. When root runs the tests, the second host cannot open the first host's files.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
import trustme
from laboratory import ROOT, WITHOUT_KERAS, assert_trained_alike, end, trained_here, wait_for, workers, write_images
from redis import Redis
from tls import terminator

from benchmarks.processes import Process, run_command
from core.compression.image_results import MEASUREMENT_COLUMNS
from core.compression.measure import measure
from core.compression.specs import ReconstructSpec, SweepSpec
from core.data.datasets import Dataset, load_dataset
from core.data.demo import create_demo_dataset
from core.data.folders import folder_here, images_here
from core.data.splits import Targets
from core.errors import ImageError, NotOnThisHost, SpecError
from core.networks.architectures import LENET5
from core.runs import Run
from core.settings import Settings
from core.store.measurements import Store
from core.training.specs import TrainingProtocol, TrainSpec
from dashboard import data, training_data
from dashboard.parts import pictures
from jobs import worker
from jobs.cli.datasets import local_dataset
from jobs.hosts import mark_output, output_here
from jobs.queues import Queues
from jobs.server import running_server
from jobs.upkeep.checks.check import Check
from jobs.upkeep.checks.data import check_data

pytestmark = pytest.mark.timeout(900)  # as for other trainings: they take long on a busy machine

NOBODY = 65534
ROOT_RUNS = os.geteuid() == 0
# Runs a command as root without the right to open files of other accounts.
CONFINED = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--pdeathsig=KILL")
    if ROOT_RUNS and shutil.which("setpriv")
    else ()
)
SWEEP = SweepSpec(dataset="demo", ks=(50, 300), sample_size=4)
TRAINING = TrainSpec(
    dataset="demo",
    network=LENET5,
    training=TrainingProtocol(epochs=3, batch_size=8, height=24, width=32, seed=3),
    targets=Targets(train=8, validation=4, test=4),
)


@dataclass(frozen=True)
class SecondHost:
    """The folders of the second host, and its workers."""

    folder: Path
    images: Path
    workers: dict[str, subprocess.Popen[bytes]]


@dataclass(frozen=True)
class Hosts:
    """Both hosts; settings and queues are those of the first."""

    settings: Settings
    queues: Queues
    images: Path
    second: SecondHost

    def named(self, kind: str) -> str:
        """Return the name of the second host's worker of a kind."""
        pid = self.second.workers[kind].pid
        return next(each.name for each in self.queues.workers() if each.pid == pid)


@contextmanager
def first_host(folder: Path) -> Iterator[Settings]:
    """Run a queue server and a record worker on a folder that only the first host can open."""
    (folder / "images").mkdir(parents=True)
    (folder / "data").mkdir()
    folder.chmod(0o700)
    if ROOT_RUNS:
        os.chown(folder, NOBODY, NOBODY)
    settings = Settings(folder / "data", (folder / "data", folder / "images"))
    with running_server(settings), workers(settings, "record"):
        yield settings


def read_only_copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
        if ROOT_RUNS:
            os.chown(path, NOBODY, NOBODY)


@contextmanager
def started(command: Sequence[str], folder: Path, roots: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker of the second host in its own working folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS_", "DATA_"))}
    environment |= {
        "DATA_DIR": str(folder / "state"),
        "DATA_ROOTS": roots,
        "PYTHONPATH": f"{WITHOUT_KERAS['PYTHONPATH']}{os.pathsep}{ROOT}",
    }
    process = Process([*command], cwd=folder, env=environment)
    try:
        yield process
    finally:
        end(process)


def worker_command(kind: str, address: str, password_file: Path) -> list[str]:
    options = ["--redis", address, "--redis-password-file", str(password_file)]
    return [sys.executable, "-m", "jobs.worker", kind, *options]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    place = tmp_path_factory.mktemp("hosts")
    one, two, images = place / "one", place / "two", place / "nas" / "copies"
    two.mkdir()
    with ExitStack() as running:
        settings = running.enter_context(first_host(one))
        create_demo_dataset(one / "images" / "demo", images=24)
        read_only_copy(one / "images" / "demo", images / "demo")
        authority, server = trustme.CA(), urlsplit(str(settings.redis_url))
        authority.cert_pem.write_to_path(str(two / "authority.pem"))
        port = running.enter_context(terminator(authority, Path(server.path), "localhost"))
        (two / "password").write_text(f"{server.password}\n")
        (two / "password").chmod(0o600)
        address = f"rediss://localhost:{port}/0?ssl_ca_certs={two / 'authority.pem'}"
        queues = Queues(settings)
        processes = {}
        for kind in ("svd", "train"):
            command = [*CONFINED, *worker_command(kind, address, two / "password")]
            roots = f"{one / 'images'}={images}"
            processes[kind] = running.enter_context(started(command, two, roots))
        pids = {process.pid for process in processes.values()}
        wait_for(lambda: pids <= {each.pid for each in queues.workers()}, 120)
        yield Hosts(settings, queues, one / "images", SecondHost(two, images, processes))


@pytest.fixture(scope="module")
def submitted(hosts: Hosts) -> dict[str, str]:
    """Submit a training and a sweep of the demo data to the second host; give their ids by kind."""
    demo = registered(hosts.queues, hosts.images / "demo")
    assert demo.synthetic
    return {spec.kind: hosts.queues.submit(spec, demo).run_id for spec in (TRAINING, SWEEP)}


def registered(queues: Queues, folder: Path) -> Dataset:
    dataset = queues.resolve(str(folder))
    queues.register(dataset)
    wait_for(lambda: queues.store.dataset(dataset.name) is not None, 60)
    return dataset


def ended(queues: Queues, run_id: str) -> Run:
    wait_for(lambda: (state := queues.run(run_id)) is not None and state.ended, 400)
    wait_for(lambda: queues.messages_waiting() == 0, 60)
    state = queues.run(run_id)
    assert state is not None
    return state


def swept(hosts: Hosts, folder: Path) -> Run:
    dataset = registered(hosts.queues, folder)
    return ended(hosts.queues, hosts.queues.submit(SweepSpec(dataset=dataset.name, ks=(3,)), dataset).run_id)


# Work done on the second host


@pytest.mark.slow
def test_a_sweep_on_a_second_host_equals_one_on_the_first_host(hosts: Hosts, submitted: dict[str, str]) -> None:
    state = ended(hosts.queues, submitted["svd-sweep"])
    assert (state.status, state.done, state.failed) == ("finished", 4, 0)
    demo = hosts.queues.store.dataset("demo")
    assert demo is not None
    own = [row for record in demo.sample(4, SWEEP.seed) for row in measure(record, demo.root, SWEEP).rows]
    keys, columns = ["image_id", "k"], [name for name in MEASUREMENT_COLUMNS if name != "reason"]
    here = pd.DataFrame(own)[columns].sort_values(keys, ignore_index=True)
    there = hosts.queues.store.measurements(state.id)[columns].sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(there, here, check_dtype=False, rtol=1e-12, atol=1e-12)
    assert np.isfinite(here["psnr"]).all()


@pytest.mark.slow
def test_a_training_on_a_second_host_equals_one_on_the_first_host(
    hosts: Hosts, submitted: dict[str, str], tmp_path: Path
) -> None:
    reference = trained_here(TRAINING, hosts.images / "demo", tmp_path)
    state = ended(hosts.queues, submitted["train"])
    assert (state.status, state.done) == ("finished", TRAINING.training.epochs)
    assert_trained_alike(hosts.queues.store, state.id, reference)
    weights = Path(hosts.queues.store.steps([state.id])["weights"].iloc[0])
    assert weights == hosts.second.folder / "state" / "trained" / state.id / "0.keras"
    assert weights.is_file()


def test_the_dashboard_shows_the_second_hosts_runs_and_workers(
    hosts: Hosts, submitted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(hosts.settings.data_dir))
    for run_id in submitted.values():
        ended(hosts.queues, run_id)
    sweep, training = data.run(submitted["svd-sweep"]), data.run(submitted["train"])
    assert sweep is not None
    assert training is not None
    assert (sweep.status, sweep.workers) == ("finished", hosts.named("svd"))
    assert (training.status, training.workers) == ("finished", hosts.named("train"))
    assert data.statistics(sweep)["variant"].unique().tolist() == ["k=50", "k=300"]
    assert training_data.steps(submitted["train"])["worker"].tolist() == [hosts.named("train")]
    assert training_data.epochs([training])["epoch"].tolist() == [1, 2, 3]
    assert {hosts.named("svd"), hosts.named("train")} <= {each.name for each in data.health().workers}
    assert str(data.datasets().set_index("name").loc["demo", "root"]) == str(hosts.images / "demo")


def test_the_second_host_has_no_store_and_cannot_read_the_first_hosts_files(
    hosts: Hosts, submitted: dict[str, str]
) -> None:
    for run_id in submitted.values():
        ended(hosts.queues, run_id)
    # The process of a training removes its checkpoint after it has reported the end.
    wait_for(lambda: all(each.current_run is None for each in hosts.queues.workers()), 60)
    state = hosts.second.folder / "state"
    assert {path.name for path in state.iterdir()} == {"logs", "trained", "arrays"}
    assert not list(hosts.second.folder.rglob("*.duckdb*"))
    if CONFINED:
        reached = [hosts.settings.database, hosts.images / "demo" / "SYNTHETIC.txt"]
        for path in reached:
            assert path.is_file()
            done = run_command([*CONFINED, "cat", str(path)], capture_output=True, text=True, timeout=20)
            assert "Permission denied" in done.stderr
        written = run_command([*CONFINED, "touch", str(hosts.second.images / "demo" / "x")], capture_output=True)
        assert written.returncode != 0


def test_the_password_is_in_no_process_list_and_no_log_of_the_second_host(
    hosts: Hosts, submitted: dict[str, str]
) -> None:
    secret = urlsplit(str(hosts.settings.redis_url)).password
    assert secret
    for process in hosts.second.workers.values():
        for part in ("cmdline", "environ"):
            assert secret.encode() not in Path(f"/proc/{process.pid}/{part}").read_bytes()
    logs = list((hosts.second.folder / "state" / "logs").iterdir())
    assert {path.name for path in logs} >= {"worker-svd.jsonl", "worker-train.jsonl"}
    assert not [path for path in logs if secret in path.read_text()]


# A second host with missing files


def test_images_that_differ_on_the_second_host_fail_with_the_reason(hosts: Hosts) -> None:
    folder = write_images(hosts.images / "altered", 4, seed=1)
    read_only_copy(folder, hosts.second.images / "altered")
    copies = hosts.second.images / "altered"
    copies.chmod(0o755)
    for name in ("mole001.jpg", "mole002.jpg"):
        (copies / name).unlink()
    shutil.copyfile(copies / "mole003.jpg", copies / "mole002.jpg")
    state = swept(hosts, folder)
    assert (state.status, state.done, state.failed) == ("finished", 2, 2)
    failures = hosts.queues.store.images(state.id, "failed").set_index("image_id")
    assert "The file does not exist" in failures["reason"]["mole001"]
    assert "has changed since the data set was read" in failures["reason"]["mole002"]
    assert failures["worker"].tolist() == [hosts.named("svd")] * 2


def test_a_folder_missing_on_the_only_host_fails_the_run_and_names_the_setting(hosts: Hosts) -> None:
    folder = write_images(hosts.images / "absent", 3, seed=2)
    state = swept(hosts, folder)
    assert state.status == "failed"
    there = hosts.second.images / "absent"
    expected = f"Expected the images of {folder} on host {gethostname()}, at {there} by its DATA_ROOTS"
    assert expected in str(state.error)
    assert "the folder does not exist" in str(state.error)


def test_a_training_on_a_folder_outside_the_data_roots_fails_and_names_the_setting(hosts: Hosts) -> None:
    folder = hosts.settings.data_dir / "reconstructed" / "unmapped"
    shutil.copytree(hosts.images / "demo", folder)
    dataset = registered(hosts.queues, folder)
    other = TRAINING.replace(dataset="unmapped", training=TRAINING.training.replace(seed=4))
    run_id = hosts.queues.submit(other, dataset).run_id
    state = ended(hosts.queues, run_id)
    assert state.status == "failed"
    for part in (f"on {gethostname()}, for {folder}", str(hosts.second.images), "DATA_ROOTS sets the data roots"):
        assert part in str(state.error)


def test_a_reconstruction_is_left_to_a_worker_that_can_reach_its_folder(hosts: Hosts) -> None:
    folder = write_images(hosts.images / "small", 8, seed=3)
    read_only_copy(folder, hosts.second.images / "small")
    dataset = registered(hosts.queues, folder)
    spec = ReconstructSpec(dataset="small", name="small-k3", k=3)
    run_id = hosts.queues.submit(spec, dataset).run_id
    state = ended(hosts.queues, run_id)
    assert state.status == "failed"
    written = hosts.settings.reconstructed / "small-k3"
    assert f"on {gethostname()}, for {written}: Expected a path inside the data roots" in str(state.error)

    def left_to_others() -> bool:
        there = hosts.named("svd")
        return any("left to other workers" in line and there in line for line in hosts.queues.log(run_id))

    with workers(hosts.settings, "svd", beside=True) as (own,):
        own.send_signal(signal.SIGSTOP)  # otherwise it may do all jobs before the second host's worker gets one
        hosts.queues.retry(run_id)
        wait_for(left_to_others, 60)
        own.send_signal(signal.SIGCONT)
        state = ended(hosts.queues, run_id)
        name = next(each.name for each in hosts.queues.workers() if each.pid == own.pid)
    assert (state.status, state.done, state.failed) == ("finished", 8, 0)
    assert set(hosts.queues.store.images(run_id)["worker"]) == {name}
    assert left_to_others()
    wait_for(lambda: hosts.queues.store.dataset("small-k3") is not None, 60)
    assert [record.sha256 for record in load_dataset(written).records] == [
        record.sha256 for record in hosts.queues.store.dataset("small-k3").records
    ]


def test_a_reconstruction_is_written_through_a_folder_that_both_hosts_share(tmp_path: Path) -> None:
    one, shared = tmp_path / "one" / "reconstructed", tmp_path / "shared"
    shared.mkdir()
    one.parent.mkdir()
    one.symlink_to(shared)  # like a network folder: one folder with two paths
    mark_output(one / "small", "reconstruct-1")
    environment = {"DATA_DIR": str(tmp_path / "two"), "DATA_ROOTS": f"{one}={shared}"}
    second = Settings.from_environment(environment)
    assert output_here(one / "small", "reconstruct-1", second) == shared / "small"
    with pytest.raises(
        NotOnThisHost, match=r"Expected to write the new data set to .*/one/reconstructed/small, shared"
    ):
        output_here(one / "small", "reconstruct-2", second)
    with pytest.raises(NotOnThisHost, match=r"data roots .* DATA_ROOTS"):
        output_here(Path("/etc/small"), "reconstruct-1", second)


def test_the_doctor_on_the_second_host_checks_each_data_set_at_its_mapped_folder(hosts: Hosts) -> None:
    for name in ("whole", "lacking"):
        folder = write_images(hosts.images / name, 3, seed=5)
        registered(hosts.queues, folder)
    read_only_copy(hosts.images / "whole", hosts.second.images / "whole")
    (hosts.second.images / "lacking").mkdir()
    shutil.copyfile(hosts.images / "whole" / "mole000.jpg", hosts.second.images / "lacking" / "mole000.jpg")
    elsewhere = write_images(hosts.settings.data_dir / "moles", 3, seed=6)
    registered(hosts.queues, elsewhere)
    there = Settings.from_environment(
        {
            "DATA_DIR": str(hosts.second.folder / "state"),
            "DATA_ROOTS": f"{hosts.images}={hosts.second.images}",
            "REDIS_URL": str(hosts.settings.redis_url),
        }
    )

    def found() -> dict[str, Check]:
        return {check.name.removeprefix("data set "): check for check in check_data(there)}

    wait_for(lambda: {"whole", "lacking", "moles"} <= found().keys(), 60)
    assert found()["whole"].found == "all there, of the same sizes"
    assert found()["whole"].expected.endswith(f"at {hosts.images}/whole, here {hosts.second.images}/whole")
    assert found()["lacking"].found == "2 files gone, 0 changed"
    assert f"for {elsewhere}: Expected a path inside" in found()["moles"].found
    assert "DATA_ROOTS" in found()["moles"].advice
    hosts.queues.remove_dataset("moles")
    wait_for(lambda: "moles" not in found(), 60)


# Nothing shared but the network


@pytest.fixture
def namespace() -> Iterator[tuple[str, str]]:
    """Give the name of a network namespace that is linked to this one, and the address of this side."""
    if not ROOT_RUNS:
        pytest.skip("expected root, because only root can create network namespaces")
    number = os.getpid() % 65536
    name, here, there = f"dermslim-{number}", f"ds{number}a", f"ds{number}b"
    subnet = f"10.213.{number // 256}.{number % 256 // 4 * 4}"
    ours, theirs = (f"{subnet.rpartition('.')[0]}.{int(subnet.rpartition('.')[2]) + end}" for end in (1, 2))
    steps = (
        f"ip netns add {name}",
        f"ip link add {here} type veth peer name {there} netns {name}",
        f"ip addr add {ours}/30 dev {here}",
        f"ip link set {here} up",
        f"ip -n {name} addr add {theirs}/30 dev {there}",
        f"ip -n {name} link set {there} up",
        f"ip netns exec {name} unshare --mount --uts true",
    )
    try:
        for step in steps:
            try:
                done = run_command(step.split(), capture_output=True, text=True, timeout=20)
            except FileNotFoundError as error:
                pytest.skip(f"no namespaces here: {error}")
            if done.returncode:
                pytest.skip(f"no namespaces here: {step}: {done.stderr.strip()}")
        yield name, ours
    finally:
        for step in (f"ip link del {here}", f"ip netns del {name}"):
            if shutil.which("ip"):
                run_command(step.split(), capture_output=True, timeout=20)


@pytest.mark.slow
def test_a_host_that_shares_only_the_queue_by_network_measures_a_sweep(
    namespace: tuple[str, str], tmp_path: Path
) -> None:
    name, address = namespace
    one, two, mounted = tmp_path / "one", tmp_path / "two", tmp_path / "mounted"
    for folder in (two, mounted):
        folder.mkdir()
    with ExitStack() as running:
        settings = running.enter_context(first_host(one))
        queues = Queues(settings)
        dataset = registered(queues, write_images(one / "images" / "moles", 5))
        shutil.copytree(dataset.root, tmp_path / "share" / "moles")
        authority, server = trustme.CA(), urlsplit(str(settings.redis_url))
        authority.cert_pem.write_to_path(str(two / "authority.pem"))
        port = running.enter_context(terminator(authority, Path(server.path), address, address))
        (two / "password").write_text(str(server.password))
        script = (
            f"hostname second && mount --bind {tmp_path}/share {mounted} && mount -o remount,bind,ro {mounted}"
            f' && mount -t tmpfs none {one} && exec "$@"'
        )
        url = f"rediss://{address}:{port}/0?ssl_ca_certs={two / 'authority.pem'}"
        inside = ["ip", "netns", "exec", name, "unshare", "--mount", "--uts", "sh", "-c", script, "sh"]
        command = [*inside, *worker_command("svd", url, two / "password")]
        running.enter_context(started(command, two, f"{one / 'images'}={mounted}"))
        wait_for(lambda: "second" in {each.host for each in queues.workers()}, 120)
        state = ended(queues, queues.submit(SweepSpec(dataset="moles", ks=(2, 9)), dataset).run_id)
        assert (state.status, state.done, state.failed) == ("finished", 5, 0)
        assert set(queues.store.images(state.id)["worker"]) == {
            each.name for each in queues.workers() if each.host == "second"
        }


# DATA_ROOTS, --redis


def roots(text: str) -> Settings:
    return Settings.from_environment({"DATA_DIR": "/state", "DATA_ROOTS": text})


def test_data_roots_map_a_recorded_folder_to_the_folder_on_this_host() -> None:
    settings = roots("/images:/data=/mnt/nas:/data/deep=/fast/deep")
    assert settings.data_roots == tuple(map(Path, ("/state", "/images", "/mnt/nas", "/fast/deep")))
    assert settings.data_roots_given
    for folder, here in {
        "/data": "/mnt/nas",
        "/data/ham10000/part 1": "/mnt/nas/ham10000/part 1",
        "/data/deep/x": "/fast/deep/x",
        "/database/x": "/database/x",
        "/images/x": "/images/x",
    }.items():
        assert settings.here(Path(folder)) == Path(here)
    assert roots("/=/everything").here(Path("/data/x")) == Path("/everything/data/x")
    assert roots("/images").here(Path("/data/x")) == Path("/data/x")


@pytest.mark.parametrize("text", ["data=/mnt", "=/mnt", "/data=", "/a=/b=/c", "/a/../b=/mnt", "/ok:data=/mnt"])
def test_an_invalid_mapping_raises_an_error_that_shows_a_valid_one(text: str) -> None:
    with pytest.raises(SpecError, match=r"Expected DATA_ROOTS .* THERE=HERE .* such as /data=/mnt/nas, got"):
        roots(text)


def test_a_folder_cannot_be_mapped_twice() -> None:
    with pytest.raises(SpecError, match="Expected DATA_ROOTS to map /data once, got it twice"):
        roots("/data=/mnt:/data/=/media")


def test_a_mapped_folder_must_be_inside_the_roots_after_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "nas" / "moles").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "nas" / "link").symlink_to(tmp_path / "secret")
    settings = roots(f"/data={tmp_path / 'nas'}")
    assert folder_here(Path("/data/moles"), settings) == tmp_path / "nas" / "moles"
    for outside in ("/data/link", "/data/../secret", "/data/moles/../../secret", str(tmp_path / "secret"), "/database"):
        with pytest.raises(NotOnThisHost, match=f"on {gethostname()}, for {outside}: .* DATA_ROOTS sets"):
            folder_here(Path(outside), settings)


def test_pages_and_local_commands_find_registered_images_through_a_mapping(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(write_images(tmp_path / "moles", 2))
    Store(settings.database).record_dataset(replace(dataset, root=Path("/former/moles")), datetime.now(UTC))
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("DATA_ROOTS", f"/former={tmp_path}")
    assert pictures.read_file(Path("/former/moles/mole000.jpg")) == (tmp_path / "moles" / "mole000.jpg").read_bytes()
    with pytest.raises(ImageError, match="does not exist"):
        pictures.read_file(Path("/other/moles/mole000.jpg"))
    assert local_dataset("moles", data.settings()).root == tmp_path / "moles"


def test_an_empty_folder_is_refused_because_it_may_not_be_mounted_yet(tmp_path: Path) -> None:
    (tmp_path / "moles").mkdir()
    with pytest.raises(NotOnThisHost, match=r"got none: the folder is empty\. Mount them there, or correct"):
        images_here(Path("/data/moles"), roots(f"/data={tmp_path}"))
    with pytest.raises(NotOnThisHost, match=f"set DATA_ROOTS={tmp_path}/moles=FOLDER for its workers"):
        images_here(tmp_path / "moles", roots(str(tmp_path)))
    (tmp_path / "moles" / "mole.jpg").touch()
    assert images_here(Path("/data/moles"), roots(f"/data={tmp_path}")) == tmp_path / "moles"


@pytest.mark.parametrize(
    "url", ["rediss://:4711pass@host/0", "redis://a:4711pass@host", "redis://host?password=4711pass"]
)
def test_a_password_on_the_command_line_is_refused_and_not_repeated(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        worker.main(["svd", "--redis", url])
    told = capsys.readouterr().err
    assert "4711" not in told
    assert "--redis-password-file" in told
    assert "REDIS_URL" in told


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("rediss://host:6380/1?ssl_ca_certs=/ca.pem", "rediss://:p%40ss%3A%2F@host:6380/1?ssl_ca_certs=/ca.pem"),
        ("redis://dermslim@host", "redis://dermslim:p%40ss%3A%2F@host"),
        ("unix:///run/valkey.sock?db=2", "unix://:p%40ss%3A%2F@/run/valkey.sock?db=2"),
    ],
)
def test_a_password_can_be_read_from_a_file(url: str, whole: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss:/\n")
    settings = Settings.from_environment({"REDIS_URL": url, "REDIS_PASSWORD_FILE": str(tmp_path / "password")})
    assert settings.redis_url == whole
    arguments = Redis.from_url(whole).connection_pool.connection_kwargs
    assert arguments["password"] == "p@ss:/"
    assert "p%40ss" not in repr(settings)


def test_an_unusable_password_file_raises_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for file, reason in {"gone": "No such file", "empty": "is empty"}.items():
        with pytest.raises(SpecError, match=f"Expected REDIS_PASSWORD_FILE .*{file}.*{reason}"):
            Settings.from_environment({"REDIS_URL": "redis://h", "REDIS_PASSWORD_FILE": str(tmp_path / file)})
    with pytest.raises(SpecError, match="Expected no password in REDIS_URL beside REDIS_PASSWORD_FILE"):
        Settings.from_environment({"REDIS_URL": "redis://:x@h", "REDIS_PASSWORD_FILE": str(tmp_path / "empty")})
