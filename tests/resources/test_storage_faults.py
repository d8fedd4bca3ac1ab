import os
from collections.abc import Iterator

import pytest
from fault_proxy import Fault, FaultProxy, fault_proxy
from s3_server import KEY, SECRET, S3Server

from rid.resources.s3_objects import CredentialsRefusedError
from rid.resources.storage import Storage


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        yield running


@pytest.mark.parametrize("kind", ["503", "409", "lost"])
def test_a_write_survives(kind: str, proxy: FaultProxy, s3_url: str) -> None:
    proxy.faults = [Fault("PUT", kind, 3)]
    Storage(s3_url).write_bytes("x", b"data")
    assert proxy.faults[0].times == 0
    assert Storage(s3_url).read_bytes("x") == b"data"


@pytest.mark.parametrize("kind", ["503", "lost", "truncated"])
def test_a_read_survives(kind: str, proxy: FaultProxy, s3_url: str) -> None:
    data = os.urandom(200_000)
    Storage(s3_url).write_bytes("x", data)
    proxy.faults = [Fault("GET", kind, 2)]
    assert Storage(s3_url).read_bytes("x") == data
    assert proxy.faults[0].times == 0


@pytest.mark.parametrize("kind", ["503", "truncated"])
def test_an_open_file_survives(kind: str, proxy: FaultProxy, s3_url: str) -> None:
    data = os.urandom(200_000)
    Storage(s3_url).write_bytes("x", data)
    with Storage(s3_url).open("x") as file:
        proxy.faults = [Fault("GET", kind, 1)]
        assert file.read() == data
    assert proxy.faults[0].times == 0


@pytest.mark.parametrize("kind", ["503", "truncated"])
def test_a_listing_survives(kind: str, proxy: FaultProxy, s3_url: str) -> None:
    Storage(s3_url).write_bytes("x", b"data")
    proxy.faults = [Fault("GET", kind, 2)]
    assert [entry.path for entry in Storage(s3_url).list_files()] == ["x"]


@pytest.mark.parametrize("kind", ["lost", "409"])
def test_a_create_whose_answer_was_lost_has_succeeded(kind: str, proxy: FaultProxy, s3_url: str) -> None:
    proxy.faults = [Fault("PUT", kind, 1)]
    assert Storage(s3_url).create_bytes("x", b"mine")
    assert not Storage(s3_url).create_bytes("x", b"yours")
    assert Storage(s3_url).read_bytes("x") == b"mine"


def test_an_update_whose_answer_was_lost_counts_once(proxy: FaultProxy, s3_url: str) -> None:
    Storage(s3_url).write_bytes("names", b"a")
    proxy.faults = [Fault("PUT", "lost", 1)]
    Storage(s3_url).update_bytes("names", lambda old: bytes(sorted({*(old or b""), *b"b"})))
    assert Storage(s3_url).read_bytes("names") == b"ab"


def test_a_flipped_bit_is_found(proxy: FaultProxy, s3_url: str) -> None:
    data = os.urandom(1000)
    Storage(s3_url).write_bytes("x", data)
    proxy.faults = [Fault("GET", "flipped", 1)]
    assert Storage(s3_url).read_bytes("x") == data
    assert proxy.faults[0].times == 0
    proxy.faults = [Fault("GET", "flipped", 99)]
    with pytest.raises(ConnectionError, match="checksum"):
        Storage(s3_url).read_bytes("x")


def test_refused_credentials_stop_at_once_and_leak_nothing(proxy: FaultProxy, s3_url: str) -> None:
    Storage(s3_url).write_bytes("x", b"data")
    proxy.requests.clear()
    proxy.faults = [Fault("GET", "403", 99)]
    with pytest.raises(CredentialsRefusedError, match="refused the credentials") as caught:
        Storage(s3_url).read_bytes("x")
    assert len(proxy.requests) == 1
    assert KEY not in str(caught.value) and SECRET not in str(caught.value)


def test_a_server_that_stays_down_is_given_up(proxy: FaultProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rid.resources.s3_objects.ATTEMPTS", 2)
    monkeypatch.setattr("rid.resources.s3_objects.CLIENT_ATTEMPTS", 2)
    proxy.faults = [Fault("PUT", "503", 999)]
    with pytest.raises(OSError):
        Storage(s3_url).write_bytes("x", b"data")
    assert 2 <= len(proxy.requests) <= 8
    assert not Storage(s3_url).exists("x")
