"""exiftool sees the same metadata before and after protection, but for pictures of the unprotected original.

It is a reader that shares no code with this project. Debian: `apt-get install libimage-exiftool-perl`.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from metadata_blocks import ICC, THUMBNAIL
from odd_photos import encoded, photograph
from services import missing_service
from tiny_defender import build_model

from rid.models.engines import OnnxEngine
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector

GREY = photograph().convert("L")
FILES = {
    "a.jpg": encoded(photograph(), progressive=True, comment=b"a comment", dpi=(240, 240)),
    "grey.jpg": encoded(GREY),
    "b.png": encoded(photograph(), "PNG", dpi=(240, 240)),
    "lossless.webp": encoded(photograph(), "WEBP", lossless=True),
    "lossy.webp": encoded(photograph(), "WEBP", quality=80),
    "c.tif": encoded(photograph(), "TIFF", compression="tiff_lzw", dpi=(240, 240)),
}
REGION = (
    "{AppliedToDimensions={W=300,H=240,Unit=pixel},RegionList=[{Area={W=0.1,H=0.2,X=0.3,Y=0.4},Name=Zoe,Type=Face}]}"
)
TAGS = (
    *("-EXIF:Artist=Zoë", "-EXIF:Orientation#=6", "-EXIF:ImageDescription=a description", "-EXIF:Copyright=(c) Zoë"),
    *("-EXIF:DateTimeOriginal=2024:01:02 03:04:05", "-EXIF:ExposureTime=1/250", "-EXIF:LensModel=a lens"),
    *("-EXIF:UserComment=Größe", "-EXIF:SubSecTimeOriginal=42", "-EXIF:XPTitle=ein Titel"),
    *("-EXIF:GPSLatitude=48.1", "-EXIF:GPSLatitudeRef=N", "-EXIF:GPSLongitude=11.5", "-EXIF:GPSLongitudeRef=E"),
    *("-XMP-dc:Title=a title", "-XMP-dc:Title-de=ein Titel", "-XMP-dc:Subject=one", "-XMP-dc:Subject=two"),
    *("-XMP-photoshop:City=Town", "-XMP-xmpRights:UsageTerms=none", "-XMP-iptcExt:PersonInImage=Someone"),
    *(f"-XMP-mwg-rs:RegionInfo={REGION}", "-XMP-crs:Exposure2012=0.35", "-XMP-xmp:Rating=4"),
    *("-IPTC:Caption-Abstract=a caption", "-IPTC:Keywords=one", "-IPTC:Keywords=two", "-IPTC:By-line=Zoë"),
    "-IPTC:CodedCharacterSet=UTF8",
)
# The mark; where pixels lie; digests of IPTC that exiftool itself writes.
EXPECTED_TO_DIFFER = ("XMP-rid:", "IFD0:Strip", "File:", "System:", "ExifTool:", "SourceFile", "Composite:")


@pytest.fixture(scope="module")
def exiftool() -> str:
    found = shutil.which("exiftool")
    if found is None:
        missing_service("the oracle of metadata needs exiftool (Debian: libimage-exiftool-perl)")
    return str(found)


def protect(data: bytes, **policy: object) -> bytes:
    return Protector(OnnxEngine(build_model()), ProtectionPolicy(**policy), 6, "5" * 64).protect(data).data


def describe(exiftool: str, *files: Path) -> list[dict[str, object]]:
    """Every tag of files by group and name, unknown ones too, in order of their repetition."""
    command = [exiftool, "-j", "-G1", "-a", "-u", "-struct", "-m", *map(str, files)]
    tags = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return [{key: value for key, value in one.items() if not key.startswith(EXPECTED_TO_DIFFER)} for one in tags]


@pytest.fixture(scope="module")
def photos(exiftool: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files with tags that exiftool wrote, and a colour profile of several segments."""
    folder = tmp_path_factory.mktemp("photos")
    profile = ICC + bytes(100_000)
    (folder / "large.icc").write_bytes(len(profile).to_bytes(4, "big") + profile[4:])
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    files = [str(folder / name) for name in FILES]
    write = [exiftool, "-q", "-m", "-overwrite_original", *TAGS, f"-ICC_Profile<={folder / 'large.icc'}", *files]
    subprocess.run(write, check=True, capture_output=True)
    return {name: folder / name for name in FILES}


def test_every_tag_stays(exiftool: str, photos: dict[str, Path], tmp_path: Path) -> None:
    for name, file in photos.items():
        (tmp_path / name).write_bytes(protect(file.read_bytes()))
    before = describe(exiftool, *photos.values())
    after = describe(exiftool, *(tmp_path / name for name in photos))
    for name, old, new in zip(photos, before, after, strict=True):
        assert len(old) > 40, name
        assert {
            key: (old.get(key), new.get(key)) for key in old.keys() | new.keys() if old.get(key) != new.get(key)
        } == {}


def test_no_embedded_picture_can_be_extracted(exiftool: str, photos: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "t.jpg").write_bytes(THUMBNAIL)
    source = tmp_path / "in.jpg"
    source.write_bytes(photos["a.jpg"].read_bytes())
    names = ("EXIF:ThumbnailImage", "Photoshop:PhotoshopThumbnail", "XMP-xmp:ThumbnailImage")
    write = [exiftool, "-q", "-m", "-overwrite_original", *(f"-{name}<={tmp_path / 't.jpg'}" for name in names)]
    subprocess.run([*write, str(source)], check=True, capture_output=True)
    (tmp_path / "out.jpg").write_bytes(protect(source.read_bytes()))

    def pictures(file: Path) -> set[str]:
        wanted = ("-preview:all", "-XMP-xmp:all", "-PhotoshopThumbnail")
        command = [exiftool, "-b", "-j", "-G1", "-a", "-ee", *wanted, str(file)]
        (tags,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return {key for key, value in tags.items() if len(str(value)) > 500}

    assert len(pictures(source)) >= 3
    assert pictures(tmp_path / "out.jpg") == set()


def test_it_reads_the_mark_and_the_word_on_data_mining(exiftool: str, photos: dict[str, Path], tmp_path: Path) -> None:
    for name, file in photos.items():
        (tmp_path / name).write_bytes(protect(file.read_bytes(), data_mining="DMI-PROHIBITED-AIMLTRAINING"))
    command = [exiftool, "-j", "-G1", "-XMP-rid:all", "-XMP-plus:all", *(str(tmp_path / name) for name in photos)]
    for tags in json.loads(subprocess.run(command, capture_output=True, check=True).stdout):
        assert tags["XMP-rid:Defender"] == "5" * 64 and tags["XMP-rid:BudgetLevels"] == 6
        assert len(tags["XMP-rid:PixelsSha256"]) == 64
        said = tags["XMP-plus:DataMining"].upper()  # old versions show the entry, new ones a text for it
        assert "PROHIBITED" in said and ("AIMLTRAINING" in said or "AI/ML" in said)
