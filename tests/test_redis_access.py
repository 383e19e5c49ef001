"""Redis with named users (ACL), and behind TLS, reached by REDIS_URL alone: by pages, commands and workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import trustme
from laboratory import ROOT, wait_for, workers, write_images
from redis import Redis
from tls import terminator

from core.datasets import load_dataset
from core.errors import QueueUnavailable
from core.settings import Settings
from core.sweeps import SweepSpec
from jobs.queues import Queues
from jobs.server import ping

SECRET = "p@ss:word/with?signs#4711"


@pytest.fixture
def acl_url(settings: Settings) -> Iterator[str]:
    """The address of a user who may do what DermSlim needs: nothing dangerous, nothing administrative."""
    with Redis.from_url(str(settings.redis_url)) as admin:
        rules = ("on", f">{SECRET}", "~*", "&*", "+@all", "-@admin", "-@dangerous", "+info", "+keys", "+client|setname")
        admin.execute_command("ACL", "SETUSER", "dermslim", *rules)
        place = urlsplit(str(settings.redis_url))
        yield f"redis://dermslim:{quote(SECRET, safe='')}@{place.hostname}:{place.port}/0"
        admin.execute_command("ACL", "DELUSER", "dermslim")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_port(settings: Settings, authority: trustme.CA) -> Iterator[int]:
    """A port that takes TLS alone and hands on to the Valkey server."""
    place = urlsplit(str(settings.redis_url))
    with terminator(authority, (str(place.hostname), int(place.port or 0)), "localhost") as port:
        yield port


@pytest.fixture
def tls_url(settings: Settings, tls_port: int, authority: trustme.CA, tmp_path: Path) -> str:
    certificate = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(certificate))
    password = urlsplit(str(settings.redis_url)).password
    return f"rediss://:{password}@localhost:{tls_port}/0?ssl_ca_certs={certificate}"


@pytest.fixture(params=["acl_url", "tls_url"])
def guarded(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    return replace(settings, given_redis_url=request.getfixturevalue(request.param))


def test_every_process_works_by_the_address_alone(guarded: Settings, tmp_path: Path) -> None:
    ping(str(guarded.redis_url))
    dataset = load_dataset(write_images(tmp_path / "moles", 3))
    queues = Queues(guarded)
    with workers(guarded, "record", "svd"):
        queues.register(dataset)
        run = queues.submit(SweepSpec(dataset="moles", ks=(2,)), dataset).run_id
        wait_for(lambda: (state := queues.run(run)) is not None and state.ended, 60)
    state = queues.run(run)
    assert state is not None
    assert (state.status, state.done) == ("finished", 3)


def command(settings: Settings, url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DATA_DIR": str(settings.data_dir), "REDIS_URL": url}
    words = [sys.executable, "-m", "jobs", "status"]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_the_command_line_works_by_the_address_alone(guarded: Settings) -> None:
    done = command(guarded, str(guarded.redis_url))
    assert done.returncode == 0, done.stderr


def test_a_wrong_password_is_an_error_that_does_not_tell_it(settings: Settings, acl_url: str) -> None:
    wrong = acl_url.replace("4711", "4712")
    with pytest.raises(QueueUnavailable) as refused:
        ping(wrong)
    with pytest.raises(QueueUnavailable) as not_submitted:
        Queues(replace(settings, given_redis_url=wrong)).ping()
    done = command(settings, wrong)
    assert done.returncode == 1
    for text in (str(refused.value), str(not_submitted.value), done.stdout, done.stderr):
        assert "4712" not in text
        assert "p@ss" not in text


def test_a_user_who_may_not_is_an_error_in_a_sentence(settings: Settings, acl_url: str) -> None:
    with Redis.from_url(str(settings.redis_url)) as admin:
        admin.execute_command("ACL", "SETUSER", "dermslim", "-@write")
    with pytest.raises(QueueUnavailable, match="permissions"):
        Queues(replace(settings, given_redis_url=acl_url)).remove_dataset("moles")


@pytest.mark.parametrize("change", [("?ssl_ca_certs=", "?other="), ("localhost", "127.0.0.1")])
def test_a_certificate_that_nobody_vouches_for_is_refused(tls_url: str, change: tuple[str, str]) -> None:
    url = tls_url.replace(*change) if change[0] != "?ssl_ca_certs=" else tls_url.partition("?")[0]
    with pytest.raises(QueueUnavailable, match=r"(?i)certificate|verify"):
        ping(url)


def test_the_certificate_may_be_taken_unseen_where_the_address_says_so(tls_url: str) -> None:
    ping(tls_url.partition("?")[0] + "?ssl_cert_reqs=none&ssl_check_hostname=false")


def test_an_address_without_tls_does_not_fall_back_to_it_nor_the_other_way(tls_url: str, settings: Settings) -> None:
    with pytest.raises(QueueUnavailable):
        ping(tls_url.partition("?")[0].replace("rediss://", "redis://"))
    with pytest.raises(QueueUnavailable):
        ping(str(settings.redis_url).replace("redis://", "rediss://"))


@pytest.mark.parametrize(
    "url",
    ["http://:4711@localhost/0", "redis://:4711@localhost:none/0", "rediss://:4711@localhost:1/0?ssl_cert_reqs=maybe"],
)
def test_an_address_that_cannot_be_read_is_an_error_that_does_not_tell_its_password(
    settings: Settings, url: str
) -> None:
    for attempt in (lambda: ping(url), lambda: Queues(replace(settings, given_redis_url=url)).ping()):
        with pytest.raises(QueueUnavailable) as refused:
            attempt()
        assert "4711" not in str(refused.value)
