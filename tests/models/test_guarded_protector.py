import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from odd_photos import encoded, photograph
from PIL import Image
from poisoned_photos import poison
from small_catalogs import photo_bytes
from tiny_defender import build_model

from rid.models.engines import OnnxEngine
from rid.models.guarded_protector import GuardedProtector, ProtectorFault
from rid.models.photo_files.marks import AlreadyProtected
from rid.models.photo_files.photos import PhotoRefused
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector, ZeroPerturbation

POLICY = ProtectionPolicy()
SUPPORT = Path(__file__).parents[1] / "support"


def guarded(policy: ProtectionPolicy = POLICY, **model: float) -> GuardedProtector:
    return GuardedProtector(lambda: build_model(**model), policy, 6)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.fixture(scope="module")
def protector():
    running = guarded()
    yield running
    running.close()


def test_it_gives_what_the_protector_gives(protector: GuardedProtector) -> None:
    plain = Protector(OnnxEngine(build_model()), POLICY, 6)
    assert protector.engine.name == plain.engine.name
    before = children()
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encoded(photograph(), kind)
        assert protector.protect(data, f"x.{kind}") == plain.protect(data, f"x.{kind}")
    assert children() <= before


def test_marks_are_written_and_found_in_the_child() -> None:
    protector = GuardedProtector(build_model, POLICY, 6, "5" * 64)
    plain = Protector(OnnxEngine(build_model()), POLICY, 6, "5" * 64)
    once = protector.protect(encoded(photograph()))
    assert once == plain.protect(encoded(photograph())) and once.pixels_sha256 is not None
    with pytest.raises(AlreadyProtected) as held:
        protector.protect(once.data, known_mark=True)
    assert held.value.mark.pixels_sha256 == once.pixels_sha256 and held.value.format == "JPEG"
    protector.close()


def test_refusals_come_through(protector: GuardedProtector) -> None:
    for data, reason in ((b"", "empty"), (photo_bytes(1, side=400)[:2000], "truncated")):
        with pytest.raises(PhotoRefused) as plain:
            Protector(OnnxEngine(build_model()), POLICY, 6).protect(data)
        with pytest.raises(PhotoRefused) as refused:
            protector.protect(data)
        assert refused.value.reason == reason
        assert str(refused.value) == str(plain.value)


def test_a_dead_defender_is_an_error_of_the_run_and_a_broken_one_of_the_start() -> None:
    with pytest.raises(ZeroPerturbation, match="choose another defender"):
        guarded(strength=0).protect(photo_bytes(1))
    with pytest.raises(ValueError, match="cannot be opened"):
        GuardedProtector(lambda: b"not a model", POLICY, 6)


def test_threads_have_children_of_their_own() -> None:
    before = children()
    protector = guarded()
    expected = [protector.protect(photo_bytes(i)) for i in range(6)]
    found: dict[int, object] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.__setitem__(i, protector.protect(photo_bytes(i)))) for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(6)] == expected
    protector.close()
    assert children() <= before


def test_only_the_photo_that_kills_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(tmp_path, monkeypatch, {"k.jpg": "kill", "o.jpg": "kill once", "p.jpg": "print", "f.jpg": "fail"})
    protector = guarded()
    for _ in range(2):
        with pytest.raises(PhotoRefused) as refused:
            protector.protect(photo_bytes(1), "k.jpg")
        assert refused.value.reason == "worker_killed"
        good = protector.protect(photo_bytes(1), "good.jpg")
    # The system kills whom it likes where memory is short: one death is tried again.
    assert protector.protect(photo_bytes(1), "o.jpg") == good
    assert protector.protect(photo_bytes(1), "p.jpg") == good
    with pytest.raises(ProtectorFault, match=r"^ArithmeticError at sitecustomize.py:\d+$") as fault:
        protector.protect(photo_bytes(1), "f.jpg")
    assert fault.value.kind == "ArithmeticError"
    assert "Jane" not in str(fault.value)


@pytest.mark.parametrize("act", ["hang", "spin"])
def test_a_photo_that_takes_too_long_is_ended(act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(tmp_path, monkeypatch, {"slow.jpg": act})
    before = children()
    protector = guarded(ProtectionPolicy(photo_seconds=0.5))
    (pid,) = children() - before
    began = time.monotonic()
    with pytest.raises(PhotoRefused, match=r"longer than 0\.5 s") as refused:
        protector.protect(photo_bytes(1), "slow.jpg")
    assert refused.value.reason == "deadline"
    assert time.monotonic() - began < 5
    assert not psutil.pid_exists(pid)
    protector.protect(photo_bytes(1), "good.jpg")


def test_a_photo_that_needs_too_much_memory_is_refused_alone() -> None:
    """A real photo of 6 MP: decoding it needs 18 MB, and protecting it a multiple of that."""
    small, large = photo_bytes(1), encoded(Image.fromarray(np.zeros((2000, 3000, 3), np.uint8) + 90), "PNG")
    protector = guarded(ProtectionPolicy(photo_memory=2**25))
    expected = protector.protect(small)
    with pytest.raises(PhotoRefused, match="more than 33554432 bytes") as refused:
        protector.protect(large)
    assert refused.value.reason == "out_of_memory"
    assert protector.protect(small) == expected
    assert guarded().protect(large).format == "PNG"


def test_a_child_has_no_credentials_writes_no_core_and_does_not_run_the_folder_it_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2.py").write_text("raise SystemExit('the folder was imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    before = children()
    protector = guarded()
    (pid,) = children() - before
    assert b"very-secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert psutil.Process(pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)
    protector.close()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("act", ["", "spin"])
def test_a_child_ends_with_its_parent(act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(tmp_path, monkeypatch, {"x.jpg": act})
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_guarded_protector import *\n"
        "protector = guarded()\n"
        "print(*children(), flush=True)\n"
        "protector.protect(photo_bytes(1), 'x.jpg')\n"
        "time.sleep(100)\n"
    )
    paths = [str(tmp_path / "poison"), str(Path(__file__).parent), str(SUPPORT), str(SUPPORT.parents[1])]
    parent = subprocess.Popen([sys.executable, "-c", code, *paths], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.3)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    child.wait(timeout=5)
