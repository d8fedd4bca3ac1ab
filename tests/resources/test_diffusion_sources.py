import json
import subprocess
import sys
from pathlib import Path

import pytest

from rid.resources.frozen.diffusion_sources import DiffusionSource, diffusion_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in the layout of a diffusers pipeline."""
    folder = tmp_path / "pipelines" / "faces"
    for name in ("unet", "vae"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
        (folder / name / "model.safetensors").write_bytes(name.encode())
    parts = {"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"], "safety_checker": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(parts))
    return folder


def test_every_form_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    models = [
        "embedded",
        str(folder),
        "pipelines/faces",
        "./pipelines/faces",
        "owner/name",
        "owner/name@v1",
        {
            "location": "owner/name",
            "revision": "abc",
            "dtype": "bfloat16",
            "native_resolution": 512,
            "prompt": "a face",
        },
    ]
    sources = diffusion_sources(models, folder)
    assert [source.location for source in sources] == [str(folder)] * 4 + ["owner/name"] * 3
    assert [source.revision for source in sources[4:]] == [None, "v1", "abc"]
    assert [source.is_folder for source in sources] == [True] * 4 + [False] * 3
    assert (sources[0].name, sources[5].name) == ("faces", "owner/name")
    assert sources[6] == DiffusionSource("owner/name", "abc", "bfloat16", 512, "a face")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "no diffusion model is listed"),
        (["/nowhere"], "/nowhere does not exist"),
        (["./nowhere"], "nowhere does not exist"),
        (["stable-diffusion"], "'stable-diffusion' is no folder that exists, and no hub id like owner/name"),
        (["a/b/c"], "no hub id like owner/name"),
        (["https://host/x"], "no hub id like owner/name"),
        ([{"path": "a/b"}], "needs 'location'"),
        ([{"location": "a/b", "size": 3}], "may have revision, dtype, native_resolution, prompt"),
        ([{"location": "a/b", "dtype": "int8"}], "dtype 'int8' of model a/b is not one of float32"),
        ([{"location": "a/b", "native_resolution": 0}], "native_resolution 0 of model a/b"),
    ],
)
def test_bad_lists_are_told(models: list[object], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        diffusion_sources(models, folder)  # type: ignore[arg-type]


def test_what_a_folder_lacks_is_named(folder: Path) -> None:
    (folder / "vae").rename(folder / "vae_old")
    with pytest.raises(ValueError, match="lacks vae, which its model_index"):
        diffusion_sources([str(folder)], folder)
    (folder / "model_index.json").write_text("[")
    with pytest.raises(ValueError, match="is not the JSON of a diffusers pipeline"):
        diffusion_sources([str(folder)], folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"holds no model_index\.json"):
        diffusion_sources(["embedded"], folder)


def test_the_digest_follows_the_content(folder: Path, tmp_path: Path) -> None:
    first = DiffusionSource(str(folder)).digest()
    moved = folder.rename(tmp_path / "moved")
    assert DiffusionSource(str(moved)).digest() == first  # where it lies does not matter
    (moved / "README.md").write_text("hello")
    assert DiffusionSource(str(moved)).digest() == first  # nor does what is no part of the model
    (moved / "unet" / "model.safetensors").write_bytes(b"other")
    second = DiffusionSource(str(moved)).digest()
    assert second != first
    (moved / "unet" / "model.safetensors").rename(moved / "unet" / "weights.safetensors")
    assert DiffusionSource(str(moved)).digest() not in (first, second)


def test_the_digest_follows_what_decides_outputs() -> None:
    sources = [
        DiffusionSource("a/b"),
        DiffusionSource("a/c"),
        DiffusionSource("a/b", "v1"),
        DiffusionSource("a/b", dtype="float16"),
        DiffusionSource("a/b", native_resolution=256),
        DiffusionSource("a/b", prompt="a face"),
    ]
    assert len({source.digest() for source in sources}) == len(sources)
    assert DiffusionSource("a/b").digest() == sources[0].digest()


def test_the_shipped_model_is_a_pipeline() -> None:
    shipped = Path(__file__).parents[2] / "models" / "weights" / "embedded-64"
    (source,) = diffusion_sources(["embedded"], shipped)
    assert source.is_folder and len(source.digest()) == 64


def test_reading_a_list_needs_no_torch() -> None:
    code = "import sys, rid.resources.frozen.diffusion_sources; sys.exit(bool({'torch', 'diffusers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
