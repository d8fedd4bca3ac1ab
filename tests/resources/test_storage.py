import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server

from rid.resources.s3_objects import S3Objects
from rid.resources.storage import Storage, StorageUrlError, checked_path, normalise_url
from rid.resources.unfinished_files import WRITING, UnfinishedFile


def test_files_are_written_listed_and_read(store: Storage) -> None:
    store.write_bytes("a/b.bin", b"one")
    store.write_bytes("c.bin", b"three")
    listed = {entry.path: entry.size for entry in store.list_files()}
    assert listed == {"a/b.bin": 3, "c.bin": 5}
    assert store.read_bytes("a/b.bin") == b"one"
    assert store.size("c.bin") == 5 and store.size("none") is None
    assert [entry.path for entry in store.list_files("a")] == ["a/b.bin"]
    assert store.is_folder() and not store.child("nowhere").is_folder()


def test_identity_follows_content(store: Storage) -> None:
    store.write_bytes("x", b"1")
    (first,) = store.list_files()
    assert store.identity("x") == first.identity
    store.write_bytes("x", b"2")
    (second,) = store.list_files()
    assert first.identity != second.identity


def test_create_never_overwrites(store: Storage) -> None:
    assert store.create_bytes("lock", b"mine")
    assert not store.create_bytes("lock", b"yours")
    assert store.create_bytes("lock", b"mine")  # a repeat whose first answer was lost
    assert store.read_bytes("lock") == b"mine"


def test_one_of_many_creators_wins(store: Storage) -> None:
    won = []
    threads = [
        threading.Thread(target=lambda i=i: won.append(i) if store.create_bytes("n", str(i).encode()) else None)
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read_bytes("n") == str(won[0]).encode()


def test_large_files_travel_whole(store: Storage, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(7 * 2**20))
    store.write_file("large", source)
    with store.open("large") as file:
        file.seek(5 * 2**20)
        assert file.read(10) == source.read_bytes()[5 * 2**20 :][:10]
    assert store.read_bytes("large") == source.read_bytes()


def test_deleting_nothing_is_fine(store: Storage) -> None:
    store.write_bytes("x", b"1")
    store.delete("x")
    store.delete("x")
    assert not store.exists("x")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = Storage(str(tmp_path))
    with pytest.raises(TypeError):
        store.write_bytes("x", None)  # type: ignore[arg-type]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(WRITING)]


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    store = Storage(str(tmp_path))
    code = (
        "import os, sys; from pathlib import Path; from rid.resources.unfinished_files import UnfinishedFile\n"
        "with UnfinishedFile(Path(sys.argv[1])) as (_, file):\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "killed.jpg")], cwd=Path(__file__).parents[2], check=False
    )
    (left,) = [entry.path for entry in store.list_files()]
    assert left.endswith(WRITING)
    with UnfinishedFile(tmp_path / "alive.jpg") as (temporary, file):
        file.write(b"whole")
        file.close()
        assert store.remove_abandoned() == [left]
        temporary.replace(tmp_path / "alive.jpg")
    assert store.read_bytes("alive.jpg") == b"whole"
    assert [entry.path for entry in store.list_files()] == ["alive.jpg"]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "secret")
    with pytest.raises(PermissionError, match="leads out"):
        Storage(str(tmp_path / "in")).read_bytes("link.jpg")


@pytest.mark.parametrize(
    "url", ["http://host/x", "simplecache::s3://b/x", "s3://user:pass@b/x", "s3://", "file://host/x", "gs://b/x"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StorageUrlError):
        normalise_url(url)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "", "a//b", "a\x00b", "."])
def test_paths_stay_inside(path: str) -> None:
    with pytest.raises(StorageUrlError):
        checked_path(path)


def test_urls_are_normalised(tmp_path: Path) -> None:
    assert normalise_url(f"file://{tmp_path}/") == str(tmp_path)
    assert normalise_url("s3://b/p/") == "s3://b/p"


def test_names_that_lead_nowhere_are_listed_and_not_read(tmp_path: Path) -> None:
    """Each is a row that can be quarantined; none is followed, lost, or waited for."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jpg").write_text("secret")
    root = tmp_path / "in"
    root.mkdir()
    (root / "out.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (root / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "folder").symlink_to(tmp_path / "outside", target_is_directory=True)
    os.mkfifo(root / "pipe.jpg")
    store = Storage(str(root))
    listed = [entry.path for entry in store.list_files()]
    assert listed == ["folder", "gone.jpg", "loop.jpg", "out.jpg", "pipe.jpg"]
    for name in [*listed, "folder/secret.jpg"]:
        with pytest.raises(PermissionError):
            store.read_bytes(name)


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "originals").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "link").symlink_to(tmp_path / "originals", target_is_directory=True)
    with pytest.raises(PermissionError, match="leads out"):
        Storage(str(tmp_path / "target")).write_bytes("link/x.jpg", b"data")
    assert not list((tmp_path / "originals").iterdir())


def test_a_write_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "original.jpg").write_bytes(b"original")
    target = tmp_path / "target"
    target.mkdir()
    (target / "x.jpg").symlink_to(tmp_path / "original.jpg")
    Storage(str(target)).write_bytes("x.jpg", b"protected")
    assert (tmp_path / "original.jpg").read_bytes() == b"original"
    assert (target / "x.jpg").read_bytes() == b"protected"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(PermissionError):
        list(Storage(str(tmp_path)).list_files())


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b"])
def test_writes_stay_inside(store: Storage, path: str) -> None:
    for write in (
        lambda: store.write_bytes(path, b""),
        lambda: store.create_bytes(path, b""),
        lambda: store.delete(path),
    ):
        with pytest.raises(StorageUrlError):
            write()
    with pytest.raises(StorageUrlError):
        store.child(path)


def test_strange_names_are_kept(store: Storage) -> None:
    names = ["a b.jpg", "ä/é.jpg", "x?y=1.jpg", "100%.jpg", "a+b&c=d.jpg", "[1]*.jpg", "#1.jpg", "日本.jpg"]
    for name in names:
        store.write_bytes(name, name.encode())
    listed = [entry.path for entry in store.list_files()]
    assert sorted(listed) == sorted(names)
    assert all(store.read_bytes(name) == name.encode() and store.size(name) == len(name.encode()) for name in listed)


def test_listings_are_never_stale(store: Storage) -> None:
    for i in range(3):
        store.write_bytes(f"f/{i}", b"x")
        assert len(list(store.list_files())) == i + 1
        assert not store.exists(f"f/{i + 1}")
    store.delete("f/0")
    assert [entry.path for entry in Storage(store.url).list_files("f")] == ["f/1", "f/2"]


def test_long_listings_come_in_pages(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Storage(s3_url)
    for i in range(7):
        store.write_bytes(f"{i}.jpg", b"x")
    pages = list(S3Objects(s3_url.removeprefix("s3://")).pages(size=3))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [entry.path for entry in store.list_files()] == [f"{i}.jpg" for i in range(7)]


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(store: Storage) -> None:
    store.write_bytes("drop=a/x", b"")
    store.write_bytes("drop=ab/y", b"")
    assert [entry.path for entry in store.list_files("drop=a")] == ["drop=a/x"]
    assert [entry.path for entry in store.child("drop=a").list_files()] == ["x"]


def add_line(url: str, line: str) -> None:
    Storage(url).update_bytes("lines", lambda old: (old or b"") + f"{line}\n".encode())


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_updates_by_processes_are_not_lost(place: str, method: str) -> None:
    """A forked process inherits the client of its parent, which is in use there."""
    Storage(place).write_bytes("other", b"")
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=add_line, args=(place, str(i))) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(Storage(place).read_bytes("lines").split()) == [b"0", b"1", b"2", b"3"]


def test_threads_share_a_storage(store: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.write_bytes(f"{i}", str(i).encode() * 100), range(32)))
        read = list(pool.map(lambda i: store.read_bytes(f"{i}"), range(32)))
    assert read == [str(i).encode() * 100 for i in range(32)]


def test_a_storage_travels_to_workers(store: Storage, dask_client: Any) -> None:
    store.write_bytes("x", b"data")
    assert dask_client.submit(store.read_bytes, "x", pure=False).result() == b"data"


def test_an_endpoint_with_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hidden@127.0.0.1:1")
    with pytest.raises(ValueError, match="may not hold credentials") as caught:
        Storage("s3://b/x").read_bytes("y")
    assert "hidden" not in str(caught.value)


def test_missing_credentials_are_named(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    code = "from rid.resources.storage import Storage; Storage('s3://b/x').read_bytes('y')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "there are no S3 credentials" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["../x", "a/./x", "x?versionId=1.jpg"])
def test_object_names_that_would_mean_another_object_are_not_read(name: str, s3_url: str) -> None:
    Storage(s3_url).write_bytes("x", b"another")
    with pytest.raises(PermissionError):
        Storage(f"{s3_url}/sub").read_bytes(name)
