"""Manifests: what they tell, that they repeat every fill to the byte, and shards as input."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from commands import run
from maskweave.errors import MaskweaveError
from maskweave.files import sha256
from maskweave.manifest import Row, identifier, merged, read_manifest, write_manifest
from maskweave.reading import seeds_of
from maskweave.tars import pairs, read_member, shards


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Four photos, one of them broken, with a mask for all."""
    (tmp_path / "images").mkdir()
    for name in "abc":
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "d.png").write_bytes(b"no image")
    hole = np.zeros((40, 40), dtype=np.uint8)
    hole[4:12, 3:9] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path


def inpaint(photos: Path, model: Path, *more: object, code: int = 1) -> Result:
    result = run(
        "inpaint", photos / "images", "--mask", photos / "mask.png", "--model", model,
        "--output", photos / "out", "--batch-size", 1, *more,
    )  # fmt: skip
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(params=["jsonl", "parquet"])
def manifest(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"fills.{request.param}"


def test_a_row_tells_of_each_image_and_repeats_it(
    photos: Path, tiny_model: Path, manifest: Path
) -> None:
    inpaint(photos, tiny_model, "--manifest", manifest, "--seed", 7, "--grow", 1, "--steps", 3)
    rows = read_manifest(manifest)
    assert [(row.name, row.status) for row in rows] == [
        ("a", "done"), ("b", "done"), ("c", "done"), ("d", "failed"),
    ]  # fmt: skip
    for row in rows[:3]:
        image = photos / "images" / f"{row.name}.png"
        assert row.id == identifier(row.name)
        assert Path(row.image) == image
        assert row.seed == seeds_of(7, image, 1)[0]
        assert row.sha256 == sha256(photos / "out" / row.output)
        assert row.recipe_of_fill.decode_settings.steps == 3
        assert row.seconds is not None
        assert row.seconds > 0
    assert rows[3].error is not None
    assert "d.png is not a readable image" in rows[3].error
    again = run("inpaint", "--replay", manifest, "--output", photos / "new", "--model", tiny_model)
    assert again.exit_code == 0, again.output
    for row in rows[:3]:
        assert sha256(photos / "new" / row.output) == row.sha256


def test_replay_tells_which_fill_differs(photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "fills.jsonl"
    inpaint(photos, tiny_model, "--manifest", manifest)
    Image.new("RGB", (40, 40)).save(photos / "images" / "b.png")
    again = run(
        "inpaint", "--replay", manifest, "--output", photos / "new", "--model", tiny_model, "--json"
    )
    assert again.exit_code == 1
    states = {Path(j["image"]).stem: j["state"] for j in json.loads(again.stdout)["images"]}
    assert states == {"a": "done", "b": "failed", "c": "done"}
    assert "b.png differs from the fill that the manifest tells of" in again.stderr


def test_replay_wants_the_weights_that_filled(
    photos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "fills.jsonl"
    inpaint(photos, tiny_model, "--manifest", manifest)
    for options, message in (
        ((), "say where it is: --model"),
        (("--model", "cats64"), "filled by other weights"),
        (("--model", tiny_model, "--steps", 2), "--replay tells --steps itself"),
    ):
        again = run("inpaint", "--replay", manifest, "--output", photos / "new", *options)
        assert again.exit_code == 2
        assert message in again.stderr


def test_several_fills_have_a_row_each(photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "fills.jsonl"
    inpaint(photos, tiny_model, "--manifest", manifest, "--num-samples", 2)
    rows = read_manifest(manifest)
    assert [row.name for row in rows[:4]] == ["a_1", "a_2", "b_1", "b_2"]
    assert len({row.seed for row in rows[:4]}) == 4
    again = run("inpaint", "--replay", manifest, "--output", photos / "new", "--model", tiny_model)
    assert again.exit_code == 0, again.output


def test_a_run_that_goes_on_keeps_the_rows(photos: Path, tiny_model: Path, manifest: Path) -> None:
    inpaint(photos, tiny_model, "--manifest", manifest)
    before = read_manifest(manifest)
    (photos / "out" / "b.png").unlink()
    refused = inpaint(photos, tiny_model, "--manifest", manifest, code=2)
    assert "exists" in refused.stderr
    inpaint(photos, tiny_model, "--manifest", manifest, "--skip-existing")
    after = {row.name: row for row in read_manifest(manifest)}
    for row in before:
        assert after[row.name].status == row.status
        assert after[row.name].sha256 == row.sha256
    assert after["a"].seconds == before[0].seconds  # nobody has filled it again


def test_a_killed_run_had_no_manifest_and_the_next_has(
    photos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    inpaint(photos, tiny_model)
    manifest = tmp_path / "fills.jsonl"
    (photos / "out" / "b.png").unlink()
    inpaint(photos, tiny_model, "--manifest", manifest, "--skip-existing")
    rows = {row.name: row for row in read_manifest(manifest)}
    assert [rows[name].status for name in "abcd"] == ["there", "done", "there", "failed"]
    again = run("inpaint", "--replay", manifest, "--output", photos / "new", "--model", tiny_model)
    assert again.exit_code == 0, again.output


def test_names_that_are_no_text_are_repeated(photos: Path) -> None:
    name = b"\xff.png".decode(errors="surrogateescape")
    try:
        (photos / "images" / "a.png").rename(photos / "images" / name)
    except OSError:
        pytest.skip("this disk takes no such names")
    manifest = photos / "fills.jsonl"
    inpaint(photos, "telea", "--manifest", manifest, "--json")
    again = run("inpaint", "--replay", manifest, "--output", photos / "new", "--json")
    assert again.exit_code == 0, again.output
    assert (photos / "new" / name).exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output": "a\0.png"}, "is no name of a file"),
        ({"recipe": "[1]"}, "is no JSON object"),
        ({"recipe": {"decoding": {"steps": -3}}}, "steps should be greater than or equal to 1"),
        ({"recipe": {"model": "gone"}}, "say where it is: --model"),
    ],
)
def test_nothing_is_repeated_of_a_manifest_with_a_row_that_cannot_be(
    photos: Path, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    manifest = tmp_path / "fills.jsonl"
    inpaint(photos, "telea", "--manifest", manifest)
    lines = manifest.read_text().splitlines()
    fields = json.loads(lines[2])
    if isinstance(recipe := changed.get("recipe"), dict):
        changed = {"recipe": json.dumps(json.loads(fields["recipe"]) | recipe)}
    lines[2] = json.dumps(fields | changed)
    manifest.write_text("\n".join(lines))
    again = run("inpaint", "--replay", manifest, "--output", photos / "new")
    assert again.exit_code == 2, again.output
    [line] = again.stderr.splitlines()
    assert message in line
    assert not (photos / "new").exists()


def test_replay_writes_nothing_beside_what_it_reads(photos: Path, tmp_path: Path) -> None:
    inpaint(photos, "telea", "--manifest", tmp_path / "fills.jsonl")
    before = (photos / "images" / "a.png").read_bytes()
    again = run(
        "inpaint", "--replay", tmp_path / "fills.jsonl", "--output", photos / "images",
        "--overwrite",
    )  # fmt: skip
    assert again.exit_code == 2
    assert "holds what is read" in again.stderr
    assert (photos / "images" / "a.png").read_bytes() == before


@pytest.mark.parametrize("named", ["file/fills.jsonl", "folder.parquet"])
def test_a_manifest_that_cannot_be_written_is_told_before_anything_is_filled(
    photos: Path, named: str
) -> None:
    (photos / "file").touch()
    (photos / "folder.parquet").mkdir()
    done = inpaint(photos, "telea", "--manifest", photos / named, "--overwrite", code=2)
    assert len(done.stderr.splitlines()) == 1
    assert not (photos / "out").exists()


def row(**fields: object) -> Row:
    plain: dict[str, object] = {
        "id": 1, "name": "a", "image": "a.png", "mask": None, "output": "a.png", "status": "done",
        "error": None, "seed": 3, "sha256": "00", "seconds": 1.0, "invert": False,
        "threshold": 128, "grow": 0, "quality": None, "recipe": "{}",
    }  # fmt: skip
    return Row(**plain | fields)  # type: ignore[arg-type]


def test_what_is_only_found_does_not_replace_what_was_told(tmp_path: Path) -> None:
    told, found, other = row(), row(status="there"), row(status="there", sha256="11")
    assert merged([told], [found]) == [told]
    assert merged([told], [other]) == [other]
    write_manifest(tmp_path / "m.jsonl", [told, other])
    assert read_manifest(tmp_path / "m.jsonl") == [other]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "no table"), (b'{"id": 1}\n', "is no manifest"), (b"[]\n", "is no table")],
)
def test_what_is_no_manifest_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.jsonl").write_bytes(content)
    with pytest.raises(MaskweaveError, match=message):
        read_manifest(tmp_path / "m.jsonl")


def test_a_manifest_names_no_file_elsewhere(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [row(output="../a.png")])
    again = run("inpaint", "--replay", tmp_path / "m.jsonl", "--output", tmp_path / "new")
    assert again.exit_code == 2
    assert "is no name of a file" in again.stderr


def shard(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards_of_photos(photos: Path) -> Path:
    """The images of the folder in two shards, each beside its mask."""
    mask = (photos / "mask.png").read_bytes()
    for number, names in enumerate(("ab", "cd")):
        members = {}
        for name in names:
            members[f"{name}.png"] = (photos / "images" / f"{name}.png").read_bytes()
            members[f"{name}.mask.png"] = mask
            members[f"{name}.json"] = b"{}"
        shard(photos / f"photos-{number:03}.tar", members)
    return photos


@pytest.mark.parametrize("named", ["photos-{000..001}.tar", ""])
def test_shards_give_the_bytes_of_a_folder(
    shards_of_photos: Path, tiny_model: Path, named: str
) -> None:
    folder = shards_of_photos
    inpaint(folder, tiny_model)
    manifest = folder / "fills.jsonl"
    result = run(
        "inpaint", folder / named, "--model", tiny_model, "--output", folder / "from_shards",
        "--manifest", manifest,
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "photos-001.tar/d.png is not a readable image" in result.stderr
    for name in "abc":
        file = f"{name}.png"
        assert (folder / "from_shards" / file).read_bytes() == (folder / "out" / file).read_bytes()
    again = run("inpaint", "--replay", manifest, "--output", folder / "new", "--model", tiny_model)
    assert again.exit_code == 0, again.output


def test_shards_and_their_members(shards_of_photos: Path) -> None:
    first = shards_of_photos / "photos-000.tar"
    assert pairs(first)[1] == (first / "b.png", first / "b.mask.png")
    assert read_member(first / "b.mask.png") == (shards_of_photos / "mask.png").read_bytes()
    with pytest.raises(MaskweaveError, match=r"photos-002.tar does not exist"):
        shards(shards_of_photos / "photos-{000..002}.tar")
    with pytest.raises(MaskweaveError, match=r"photos-002.tar does not exist"):
        shards(shards_of_photos / "photos-{000..999999999999}.tar")
    with pytest.raises(MaskweaveError, match=r"z.png does not exist"):
        read_member(first / "z.png")
    shard(shards_of_photos / "odd.tar", {"./a.png": b"a", "/b.png": b"b"})
    odd = pairs(shards_of_photos / "odd.tar")
    assert [read_member(image) for image, _ in odd] == [b"a", b"b"]
    shard(shards_of_photos / "twins.tar", {"a.png": b"", "a.jpg": b""})
    with pytest.raises(MaskweaveError, match="several images have the key a"):
        pairs(shards_of_photos / "twins.tar")
    (shards_of_photos / "broken.tar").write_bytes(b"broken")
    with pytest.raises(MaskweaveError, match="is not a readable shard"):
        pairs(shards_of_photos / "broken.tar")


def test_a_table_names_images_and_masks(photos: Path, tiny_model: Path) -> None:
    inpaint(photos, tiny_model)
    table = photos / "images.jsonl"
    mask = str(photos / "mask.png")
    lines = [{"image": str(photos / "images" / f"{name}.png"), "mask": mask} for name in "ab"]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run("inpaint", table, "--model", tiny_model, "--output", photos / "tabled")
    assert result.exit_code == 0, result.output
    for name in ("a.png", "b.png"):
        assert (photos / "tabled" / name).read_bytes() == (photos / "out" / name).read_bytes()
    table.write_text('{"file": "a.png"}\n')
    result = run("inpaint", table, "--model", tiny_model, "--output", photos / "tabled")
    assert result.exit_code == 2
    assert "has no column image" in result.stderr
    table.write_text('{"image": "a.png", "mask": 3}\n')
    result = run("inpaint", table, "--model", tiny_model, "--output", photos / "tabled")
    assert result.exit_code == 2
    assert "holds what is no name of a file" in result.stderr


def test_what_holds_no_image_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    shard(tmp_path / "none.tar", {"a.json": b"{}"})
    for name in ("none.jsonl", "none.tar"):
        more = ("--output", tmp_path / "out", "--manifest", tmp_path / "fills.jsonl")
        result = run("inpaint", tmp_path / name, *more)
        assert result.exit_code == 2
        assert result.stderr == f"error: {tmp_path / name} holds no image\n"
