"""Fills by Ray Data: the bytes of one machine, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import run
from maskweave.call import Filled, Pipeline
from maskweave.errors import MaskweaveError
from maskweave.files import sha256
from maskweave.manifest import Row, read_manifest
from maskweave.pipeline import InpaintPipeline

pytest.importorskip("ray")
pytestmark = [
    # Ray Data reads attributes of its own context that it calls deprecated.
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:ray"),
    # Ray leaves sockets, files and processes of the cluster to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FILES = 12
SLOW_MACHINES = {
    "RAY_worker_register_timeout_seconds": "600",  # others are started for those that are late
    "RAY_worker_niceness": "0",  # which would starve them beside other tests
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with a mask for all, one of them broken."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(FILES):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:02}.png")
    (folder / "images" / "broken.png").write_bytes(b"no image")
    hole = np.zeros((40, 40), dtype=np.uint8)
    hole[4:12, 3:9] = 255
    Image.fromarray(hole).save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine with room for two workers, and for what goes on beside them."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in SLOW_MACHINES.items():
            patch.setenv(name, value)
        ray.init(
            "local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100_000_000,
        )
        yield
        ray.shutdown()


def command(photos: Path, model: Path, output: Path, *more: object) -> list[str]:
    arguments = (
        "inpaint", photos / "images", "--mask", photos / "mask.png", "--model", model,
        "--output", output, "--batch-size", 2, *more,
    )  # fmt: skip
    return [str(argument) for argument in arguments]


@pytest.fixture(scope="module")
def alone(photos: Path, tiny_model: Path) -> dict[str, str]:
    """What one machine without Ray writes: the hash of each file."""
    assert run(*command(photos, tiny_model, photos / "alone")).exit_code == 1
    found = hashes(photos / "alone")
    assert len(found) == FILES
    return found


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in folder.glob("*.png")}


def rows_of(manifest: Path) -> dict[str, Row]:
    """Return the rows by name, of which each is there once."""
    from maskweave.manifest import read_rows

    rows = read_manifest(manifest)
    assert len(read_rows(manifest)) == len(rows)
    return {row.name: row for row in rows}


def agrees(rows: dict[str, Row], alone: dict[str, str]) -> None:
    """Check that a manifest tells of all that one machine fills, and of the broken image."""
    assert {row.output: row.sha256 for row in rows.values() if row.sha256} == alone
    assert rows["broken"].status == "failed"
    assert "broken.png is not a readable image" in str(rows["broken"].error)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_gives_the_bytes_of_one_machine(
    photos: Path,
    tiny_model: Path,
    alone: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where no worker is
    output = Path("out")
    result = run(*command(photos, tiny_model, output, "--ray"))
    assert result.exit_code == 1, result.output
    assert f"{FILES} of {FILES + 1} in" in result.stderr
    assert result.stderr.count("broken.png is not a readable image") == 1
    assert len(result.stdout.splitlines()) == FILES
    assert hashes(output) == alone
    rows = rows_of(output / "manifest.parquet")
    agrees(rows, alone)
    assert {row.status for row in rows.values()} == {"done", "failed"}
    again = run(*command(photos, tiny_model, output, "--ray", "--skip-existing"))
    assert again.exit_code == 1, again.output
    assert again.stdout == ""
    assert f"{FILES} were there" in again.stderr
    (output / "new").mkdir()
    replayed = run(
        "inpaint", "--replay", output / "manifest.parquet", "--output", output / "new",
        "--model", tiny_model,
    )  # fmt: skip
    assert replayed.exit_code == 0, replayed.output
    assert hashes(output / "new") == alone


@pytest.mark.usefixtures("cluster")
def test_what_ray_prints_is_not_taken_for_outputs(
    photos: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import maskweave.ray

    def fill(*arguments: Any, **options: Any) -> None:
        print("(raylet) WARNING")
        done(*arguments, **options)

    done = maskweave.ray.fill_table
    monkeypatch.setattr(maskweave.ray, "fill_table", fill)
    result = run(*command(photos, tiny_model, tmp_path / "out", "--ray"))
    assert result.exit_code == 1, result.output
    assert len(result.stdout.splitlines()) == FILES
    assert "(raylet) WARNING" in result.stderr


@pytest.mark.usefixtures("cluster")
def test_a_folder_that_is_called_as_a_shipped_model_is_not_taken_for_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cats64").mkdir()
    result = run(*command(photos, Path("cats64"), tmp_path / "out", "--ray"))
    assert result.exit_code == 1, result.output
    assert len(hashes(tmp_path / "out")) == FILES


@pytest.mark.usefixtures("cluster")
def test_a_cluster_fills_without_a_model_too(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run(*command(photos, Path("telea"), output, "--ray"))
    assert result.exit_code == 1, result.output
    assert len(hashes(output)) == FILES
    replayed = run(
        "inpaint", "--replay", output / "manifest.parquet", "--output", tmp_path / "again"
    )
    assert replayed.exit_code == 0, replayed.output
    assert hashes(tmp_path / "again") == hashes(output)


def dying(model: Path, flag: Path) -> Callable[[], Pipeline]:
    """Return what loads a model whose first process dies when it has filled three images."""

    class Dying(InpaintPipeline):
        def fill(self, *arguments: Any, **options: Any) -> Iterator[Filled]:
            for each in super().fill(*arguments, **options):
                if not flag.exists() and each[0] == 3:
                    flag.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield each

    return partial(Dying.from_pretrained, model)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_dies_loses_nothing(
    photos: Path, tiny_model: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    from maskweave.ray import fill_table

    flag, output = tmp_path / "died", tmp_path / "out"
    images = sorted((photos / "images").iterdir())
    rows = [{"image": str(f), "mask": str(photos / "mask.png"), "name": f.stem} for f in images]
    fill_table(rows, tmp_path / "fills.parquet", output, load=dying(tiny_model, flag), batch_size=6)
    assert flag.exists()
    assert hashes(output) == alone
    agrees(rows_of(tmp_path / "fills.parquet"), alone)


@pytest.fixture
def one_core() -> Iterator[None]:
    """Let this process and those that it starts use one core."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("cores are not to be chosen here")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_a_run_that_is_killed_goes_on(
    photos: Path, tiny_model: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = command(photos, tiny_model, output, "--ray")
    environment = os.environ | SLOW_MACHINES
    first = subprocess.Popen(
        (sys.executable, "-m", "maskweave", *arguments), env=environment, start_new_session=True
    )
    while first.poll() is None and len(hashes(output)) < 3:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(3)  # what is left of the cluster sees that its driver is gone
    before = {file: file.stat().st_mtime_ns for file in output.glob("*.png")}
    assert before
    second = subprocess.run(
        (sys.executable, "-m", "maskweave", *arguments, "--skip-existing"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1, second.stderr
    assert {file: file.stat().st_mtime_ns for file in before} == before  # nothing twice
    assert hashes(output) == alone  # nothing lost
    agrees(rows_of(output / "manifest.parquet"), alone)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_files_and_shards_that_ray_reads(
    photos: Path, tiny_model: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    import ray.data
    from webdataset import TarWriter

    from maskweave.ray import fill_dataset

    options: dict[str, Any] = {"model": str(tiny_model), "workers": (1, 1)}
    files = ray.data.read_binary_files(str(photos / "images"), include_paths=True)
    filled = fill_dataset(files, tmp_path / "out", masks=photos / "mask.png", **options)
    filled.write_parquet(str(tmp_path / "fills.parquet"))
    assert hashes(tmp_path / "out") == alone
    with TarWriter(str(tmp_path / "photos.tar")) as shard:
        for name in ("00", "01"):
            content = (photos / "images" / f"{name}.png").read_bytes()
            mask = (photos / "mask.png").read_bytes()
            shard.write({"__key__": name, "png": content, "mask.png": mask})
    samples = ray.data.read_webdataset(str(tmp_path / "photos.tar"), decoder=None)
    rows = fill_dataset(samples, None, **options).take_all()
    assert {row["output"]: row["sha256"] for row in rows} == {
        name: alone[name] for name in ("00.png", "01.png")
    }
    assert all(len(row["content"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: [Errno 111] Connection refused")],
)
def test_a_cluster_that_does_not_answer_is_one_line(
    photos: Path, tiny_model: Path, tmp_path: Path, address: str, message: str
) -> None:
    result = run(*command(photos, tiny_model, tmp_path / "out", "--ray", address))
    assert result.exit_code == 2
    assert result.stderr == f"error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_without_ray_a_line_says_what_to_install(
    photos: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "maskweave.ray", None)
    result = run(*command(photos, tiny_model, tmp_path / "out", "--ray"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --ray needs more: pip install 'maskweave[ray]'")


def test_what_is_to_be_replaced_stays_until_a_cluster_answers(
    photos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    part = tmp_path / "fills.parquet" / "part.parquet"
    part.parent.mkdir()
    part.write_bytes(b"rows")
    more = ("--ray", "127.0.0.1:1", "--overwrite", "--manifest", part.parent)
    assert run(*command(photos, tiny_model, tmp_path / "out", *more)).exit_code == 2
    assert part.exists()


def test_a_cluster_too_small_to_go_on_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskweave.ray import fill_table

    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(MaskweaveError, match="needs at least 3 CPUs, this one tells of 2"):
        fill_table([], tmp_path / "fills.parquet", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--save-steps",), "--ray writes no pictures of steps"),
        (("--ray", "head"), "(head)"),
        (("--manifest", "fills.jsonl"), "a manifest is a folder called .parquet"),
        (("--manifest", "fills", "--overwrite"), "a manifest is called"),
    ],
)
def test_what_a_cluster_does_not_do(
    photos: Path, tiny_model: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = run(*command(photos, tiny_model, tmp_path / "out", "--ray", *options))
    assert result.exit_code == 2
    assert message in result.stderr
