import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_spaces import save_spaces

from rid.assets.frozen.spaces import load_spaces
from rid.resources.frozen.latent_spaces import (
    SHORT_NAMES,
    SpaceSource,
    space_sources,
    spaces_from_json,
    spaces_to_json,
)

SHIPPED = Path(__file__).parents[2] / "models" / "weights" / "embedded-64"


def autoencoder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(folder.name.encode())
    return folder


def test_every_form_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    autoencoder(tmp_path / "spaces" / "mine")
    autoencoder(tmp_path / "pipeline" / "vae")
    sources = space_sources(
        ["embedded", "spaces/mine", "./pipeline", "owner/name@v1", {"location": "owner/other", "dtype": "bfloat16"}],
        SHIPPED,
    )
    assert [source.location for source in sources] == [
        str(SHIPPED),
        str(tmp_path / "spaces" / "mine"),
        str(tmp_path / "pipeline"),
        "owner/name",
        "owner/other",
    ]
    assert [source.name for source in sources] == ["embedded", "mine", "pipeline", "owner/name", "owner/other"]
    assert sources[3] == SpaceSource("owner/name", "v1")
    assert sources[4].dtype == "bfloat16"
    assert spaces_from_json(spaces_to_json(sources)) == sources


def test_short_names_are_looked_for_in_the_folder_and_then_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RID_LATENT_SPACES", raising=False)
    on_hub = space_sources(list(SHORT_NAMES), SHIPPED)
    assert [source.location for source in on_hub] == list(SHORT_NAMES.values())
    assert [source.name for source in on_hub] == ["sd1", "sdxl", "sd3", "flux1"]
    here = autoencoder(tmp_path / "sd3")
    monkeypatch.setenv("RID_LATENT_SPACES", str(tmp_path))
    assert [source.location for source in space_sources(["sd3", "sd1"], SHIPPED)] == [str(here), "madebyollin/taesd"]
    given = space_sources(["sd3"], SHIPPED, tmp_path / "elsewhere")
    assert given[0].location == "madebyollin/taesd3"  # the folder that is passed counts


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ([], "no latent space is listed: give at least one of sd1, sdxl, sd3, flux1, 'embedded'"),
        (["sd2"], "'sd2' is no folder that exists, and none of sd1, sdxl, sd3, flux1, 'embedded'"),
        (["a/b/c"], "is no folder that exists"),
        (["https://host/x"], "is no folder that exists"),
        (["/nowhere"], "folder /nowhere does not exist"),
        (["empty"], "holds no autoencoder: neither config.json nor vae/config.json"),
        (["sd1", "sd1"], "sd1 is listed twice"),
        ([{"path": "a/b"}], "needs 'location'"),
        ([{"location": "a/b", "size": 3}], "may have revision, dtype, short_name"),
        ([{"location": "a/b", "dtype": "int8"}], "dtype 'int8' of latent space a/b is not one of float32"),
    ],
)
def test_bad_lists_are_told(
    spaces: list[object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        space_sources(spaces, SHIPPED)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_digest_follows_the_autoencoder_alone(tmp_path: Path) -> None:
    pipeline = autoencoder(tmp_path / "pipeline" / "vae").parent
    first = SpaceSource(str(pipeline)).digest()
    assert SpaceSource(str(pipeline / "vae")).digest() == first  # the pipeline around it does not matter
    (pipeline / "unet").mkdir()
    (pipeline / "unet" / "model.safetensors").write_bytes(b"other")
    assert SpaceSource(str(pipeline)).digest() == first
    moved = pipeline.rename(tmp_path / "moved")
    assert SpaceSource(str(moved), short_name="x").digest() == first  # nor where it lies, or how it is called
    (moved / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"changed")
    others = [
        SpaceSource(str(moved)),
        SpaceSource("a/b"),
        SpaceSource("a/b", "v1"),
        SpaceSource("a/b", dtype="float16"),
    ]
    assert len({first, *(other.digest() for other in others)}) == 5


def test_a_worker_loads_what_a_list_names(tmp_path: Path) -> None:
    folders = save_spaces(tmp_path)
    first, second = load_spaces([SpaceSource(str(folders[0])), SpaceSource(str(folders[1]), short_name="other")])
    assert (first.name, second.name) == ("space-0", "other")
    assert first.digest != second.digest


def test_reading_a_list_needs_no_torch() -> None:
    code = (
        "import sys, rid.resources.frozen.latent_spaces; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
