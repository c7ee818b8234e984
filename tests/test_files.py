"""Files appear under their names when whole, whatever their names are and whoever else writes."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maskweave.errors import MaskweaveError
from maskweave.files import DiskError, tried, unfinished, write_whole


def test_a_name_as_long_as_a_disk_allows_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 251 + ".txt")
    write_whole(file, b"whole")
    assert file.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [file]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with unfinished(file) as one, unfinished(file) as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert file.read_bytes() == b"one"  # the last to finish
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_whole(file, bytes([i]) * 1000), range(200)))
    assert len(set(file.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [file]


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"

    def stopped() -> None:
        with unfinished(file) as path:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(file.parent.iterdir()) == []


def test_what_a_kill_left_half_written_is_removed_later(tmp_path: Path) -> None:
    old, new = (tmp_path / f".{digit * 16}.unfinished" for digit in "12")
    other = tmp_path / ".another program.unfinished"
    for left in (old, new, other):
        left.write_bytes(b"half")
    folder = tmp_path / f".{'3' * 16}.unfinished"  # of an export
    folder.mkdir()
    (folder / "graph").write_bytes(b"half")
    for left in (old, other, folder):
        os.utime(left, (0, 0))
    write_whole(tmp_path / "file", b"whole")
    assert not old.exists()
    assert not folder.exists()
    assert new.exists()  # may be another process's
    assert other.exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MaskweaveError, match=r"^cannot write .*/file/below: \w[\w ]+$"):
        write_whole(tmp_path / "file" / "below", b"")


@pytest.mark.parametrize("links", [True, False], ids=["links", "a disk without links"])
def test_a_file_that_has_appeared_is_replaced_only_if_asked(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    file = tmp_path / "file"

    def write(content: bytes, replace: bool) -> None:
        with unfinished(file, replace) as path:
            path.write_bytes(content)

    write(b"first", False)
    with pytest.raises(DiskError, match=r"file was written by somebody else meanwhile$"):
        write(b"second", False)
    assert file.read_bytes() == b"first"
    write(b"third", True)
    assert file.read_bytes() == b"third"
    assert list(tmp_path.iterdir()) == [file]


def test_a_fault_of_the_disk_is_told_from_that_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(MaskweaveError, match=r"Is a directory$") as raised:
        write_whole(tmp_path / "folder", b"")
    assert not isinstance(raised.value, DiskError)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=r"cannot write .*file: No space left on device"):
        write_whole(tmp_path / "file", b"")
    with (
        pytest.raises(DiskError, match=r"cannot write to folder .*new: No space left on device"),
        tried(tmp_path / "new"),
    ):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_was_tried_stays_if_something_was_written(tmp_path: Path) -> None:
    for name in ("empty", "full"):
        with tried(tmp_path / name / "below"):
            assert list((tmp_path / name / "below").iterdir()) == []
            if name == "full":
                (tmp_path / name / "below" / "file").touch()
    assert [file.name for file in tmp_path.iterdir()] == ["full"]
    (tmp_path / "there").mkdir()
    with tried(tmp_path / "there"):
        pass
    assert (tmp_path / "there").is_dir()
