"""Runs over a folder that end early, go on or meet another run."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from commands import fails, run
from folder_runs import arguments, eight_photos, names
from maskweave.images import read_image

COMMAND = (sys.executable, "-m", "maskweave")


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Let signals stop processes also where the tests run in the background, which ignores them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Eight photos with a mask for all."""
    return eight_photos(tmp_path, rng)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 kB, on which three photos have room beside a folder."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def after(calls: int, then: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something when as many files have been written: the folder is tried first."""
    flush, left = os.fsync, iter(range(calls + 1))

    def counted(file: int) -> None:
        if next(left, None) is None:
            then()
        flush(file)

    monkeypatch.setattr(os, "fsync", counted)


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO]
)
def test_a_fault_of_the_disk_stops_a_run_at_once(
    photos: Path, tiny_model: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault() -> None:
        raise OSError(number, os.strerror(number))

    after(3, fault, monkeypatch)
    result = run(*arguments(photos, tiny_model, None, "--json"))
    fails(result, f"out/d.png: {os.strerror(number)}; 3 of 8 done")
    report = json.loads(result.stdout)
    assert [job["state"] for job in report["images"]] == 3 * ["done"] + 5 * ["left"]
    assert "3 of 8 done" in report["stopped"]
    assert names(photos / "out") == ["a.png", "b.png", "c.png"]


def test_a_full_disk_stops_a_run_and_leaves_whole_files(
    photos: Path, tiny_model: Path, small_disk: Path
) -> None:
    result = run(*arguments(photos, tiny_model, small_disk / "out"))
    fails(result, "No space left on device; 3 of 8 done")
    assert names(small_disk / "out") == ["a.png", "b.png", "c.png"]
    assert result.stdout.split() == [str(small_disk / "out" / f"{name}.png") for name in "abc"]
    for file in (small_disk / "out").iterdir():
        read_image(file)


def test_an_output_folder_that_goes_away_stops_a_run(
    photos: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(3, lambda: shutil.rmtree(photos / "out"), monkeypatch)
    fails(run(*arguments(photos, tiny_model)), "3 of 8 done")
    assert not (photos / "out").exists()


def test_an_output_is_tried_before_a_model_loads(photos: Path) -> None:
    (photos / "file").touch()
    result = run(*arguments(photos, photos / "no model", photos / "file" / "below"))
    fails(result, "file/below: Not a directory; 0 of 8 done")


def test_a_full_disk_is_noticed_before_a_model_loads(photos: Path, small_disk: Path) -> None:
    (small_disk / "full").write_bytes(bytes(24 << 10))
    fails(run(*arguments(photos, photos / "no model", small_disk)), "No space left on device")
    assert names(small_disk) == ["full"]


def test_a_folder_that_gets_no_file_is_not_left(photos: Path) -> None:
    result = run(*arguments(photos, photos / "no model", photos / "new" / "out"))
    fails(result, "no model")
    assert not (photos / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_how_far_it_came_and_goes_on(
    photos: Path, tiny_model: Path, number: signal.Signals
) -> None:
    options = ("--steps", 150, "--order", "random")
    command = arguments(photos, tiny_model, None, *options)
    with subprocess.Popen(
        [*COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (photos / "out" / "b.png").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        stdout, stderr = process.communicate()
    assert process.returncode == 128 + number
    done = names(photos / "out")
    assert 2 <= len(done) < 8
    told = stdout.split()
    assert len(done) - len(told) in (0, 1)  # it may have been between writing one and counting it
    assert told == [str(photos / "out" / name) for name in done[: len(told)]]
    goes_on = "the same command with --skip-existing goes on from there"
    assert stderr == f"stopped: {len(told)} of 8 done; {goes_on}\n"
    result = run(*command, "--skip-existing")
    assert result.exit_code == 0, result.output
    assert f"{8 - len(done)} of 8 in" in result.stderr
    assert f"{len(done)} were there" in result.stderr
    assert run(*arguments(photos, tiny_model, photos / "other", *options)).exit_code == 0
    assert contents(photos / "out") == contents(photos / "other")


def test_stopped_while_the_model_loads_nothing_is_left(
    photos: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("maskweave.cli.inpaint.load_pipeline", stop)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    result = run(*arguments(photos, tiny_model))
    assert result.exit_code == 130
    assert result.stderr.startswith("stopped: 0 of 8 done")
    assert not (photos / "out").exists()
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_what_is_there_is_skipped_without_a_look(photos: Path, tiny_model: Path) -> None:
    (photos / "out").mkdir()
    for name in "ac":
        (photos / "images" / f"{name}.png").write_bytes(b"broken")
        (photos / "out" / f"{name}.png").write_bytes(b"there")
    command = arguments(photos, tiny_model, None, "--skip-existing", "--json")
    result = run(*command)
    assert result.exit_code == 0, result.output
    states = {Path(job["image"]).stem: job["state"] for job in json.loads(result.stdout)["images"]}
    assert states == {name: "there" if name in "ac" else "done" for name in "abcdefgh"}
    assert (photos / "out" / "a.png").read_bytes() == b"there"
    again = run(*arguments(photos, photos / "no model", None, "--skip-existing"))
    assert again.exit_code == 0
    assert again.stdout == ""
    assert "0 of 8" in again.stderr
    assert "8 were there" in again.stderr


def test_of_samples_those_that_are_missing_are_written(photos: Path, tiny_model: Path) -> None:
    command = arguments(photos, tiny_model, None, "--num-samples", 2)
    assert run(*command).exit_code == 0
    whole = contents(photos / "out")
    (photos / "out" / "b_2.png").unlink()
    (photos / "out" / "c_1.png").unlink()
    (photos / "out" / "c_2.png").write_bytes(b"there")
    fails(run(*command), "a_1.png exists; --overwrite replaces it, --skip-existing leaves it alone")
    result = run(*command, "--skip-existing")
    assert result.exit_code == 0, result.output
    assert "2 of 8 in" in result.stderr
    assert contents(photos / "out") == whole | {"c_2.png": b"there"}
    written = [str(photos / "out" / name) for name in ("b_2.png", "c_1.png")]
    assert result.stdout.split() == written
    fails(run(*command, "--skip-existing", "--overwrite"), "exclude each other")


def test_a_file_that_appears_during_a_run_stays_and_stops_it(
    photos: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interfere() -> None:
        if not (photos / "out" / "d.png").exists():
            (photos / "out" / "d.png").write_bytes(b"another's")

    after(3, interfere, monkeypatch)
    result = run(*arguments(photos, tiny_model))
    fails(result, "out/d.png was written by somebody else meanwhile; 3 of 8 done")
    assert names(photos / "out") == ["a.png", "b.png", "c.png", "d.png"]
    assert (photos / "out" / "d.png").read_bytes() == b"another's"
    assert run(*arguments(photos, tiny_model, None, "--overwrite")).exit_code == 0
    assert (photos / "out" / "d.png").read_bytes() != b"another's"


def test_what_another_run_does_meanwhile_is_skipped_without_a_look(
    photos: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interfere() -> None:
        for name in "defgh":
            if not (photos / "out" / f"{name}.png").exists():
                (photos / "out" / f"{name}.png").write_bytes(b"another's")
        for name in "fgh":
            (photos / "images" / f"{name}.png").write_bytes(b"broken")

    after(3, interfere, monkeypatch)  # when d is filled and is to be written
    result = run(*arguments(photos, tiny_model, None, "--skip-existing", "--json"))
    assert result.exit_code == 0, result.output
    jobs = {Path(job["image"]).stem: job for job in json.loads(result.stdout)["images"]}
    assert {name for name, job in jobs.items() if job["state"] == "done"} == set("abc")
    assert {name for name, job in jobs.items() if job["state"] == "there"} == set("defgh")
    written = [file for job in jobs.values() for file in job["written"]]
    assert written == [str(photos / "out" / f"{name}.png") for name in "abc"]
    assert {(photos / "out" / f"{name}.png").read_bytes() for name in "defgh"} == {b"another's"}


def test_of_a_run_beside_another_only_its_own_files_are_told(
    photos: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(3, lambda: [(photos / "out" / f"{n}.png").touch() for n in "defgh"], monkeypatch)
    result = run(*arguments(photos, tiny_model, None, "--skip-existing"))
    assert result.stdout.split() == [str(photos / "out" / f"{name}.png") for name in "abc"]
    assert result.stderr.startswith("3 of 8 in ")
    assert result.stderr.endswith(", 5 were there\n")


def test_a_folder_with_the_name_of_a_fill_is_the_error_of_its_image(
    photos: Path, tiny_model: Path
) -> None:
    (photos / "out" / "b.png").mkdir(parents=True)
    result = run(*arguments(photos, tiny_model, None, "--skip-existing"))
    assert result.exit_code == 1
    assert f"error: {photos / 'images/b.png'}: {photos / 'out/b.png'} is a folder" in result.stderr
    assert "7 of 8 in" in result.stderr
    assert "were there" not in result.stderr


@pytest.mark.slow
def test_two_runs_into_one_folder_do_not_mix_their_files(photos: Path, tiny_model: Path) -> None:
    runs = [
        subprocess.Popen(
            [*COMMAND, *arguments(photos, tiny_model, None, "--steps", 50, "--seed", seed)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for seed in (1, 2)
    ]  # fmt: skip
    errors = [one.communicate()[1] for one in runs]
    codes = [one.returncode for one in runs]
    assert sorted(codes) == [0, 2], errors
    loser = codes.index(2)
    assert errors[loser].count("\n") == 1
    assert ".png" in errors[loser]
    seed = 2 - loser
    command = arguments(photos, tiny_model, photos / "alone", "--steps", 50, "--seed", seed)
    assert run(*command).exit_code == 0
    assert contents(photos / "out") == contents(photos / "alone")
