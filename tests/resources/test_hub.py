"""Hub models are pinned to commits, without a network: by what the hub says, or by the cache of this machine."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from rid.resources.frozen.diffusion_sources import DiffusionSource
from rid.resources.frozen.hub import pinned
from rid.resources.frozen.latent_spaces import SpaceSource

COMMITS = ("a" * 40, "b" * 40)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache of a machine without a network."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_model_that_moved_on_the_hub_has_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for commit in COMMITS:
        answer = SimpleNamespace(sha=commit)
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, answer=answer, **__: answer)
        found += pinned([DiffusionSource("owner/model"), SpaceSource("owner/model")])
    assert [source.revision for source in found] == [COMMITS[0]] * 2 + [COMMITS[1]] * 2
    assert len({source.digest() for source in found}) == 4


def test_without_a_network_the_cache_says_which_commit_it_has(offline: Path) -> None:
    refs = offline / "models--owner--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMITS[0])
    (refs / "v2").write_text(COMMITS[1])
    main, tag = pinned([DiffusionSource("owner/model"), DiffusionSource("owner/model", revision="v2")])
    assert (main.revision, tag.revision) == COMMITS
    with pytest.raises(ValueError, match=r"the model owner/other \(OSError\), and its cache here has no copy"):
        pinned([DiffusionSource("owner/other")])


def test_folders_and_commits_are_left_as_they_are(offline: Path, tmp_path: Path) -> None:
    given = [DiffusionSource(str(tmp_path)), DiffusionSource("owner/model", revision=COMMITS[0])]
    assert pinned(given) == given
