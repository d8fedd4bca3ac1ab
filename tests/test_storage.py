import os
import threading
from pathlib import Path

import pytest

from resources.storage import WRITING, Storage, StorageUrlError, checked_path, normalise_url


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
