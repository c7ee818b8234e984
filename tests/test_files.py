"""Files appear under their names when whole, whatever their names are and whoever else writes."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maskweave.errors import MaskweaveError
from maskweave.files import unfinished, write_whole


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
    for left in (old, other):
        os.utime(left, (0, 0))
    write_whole(tmp_path / "file", b"whole")
    assert not old.exists()
    assert new.exists()  # may be another process's
    assert other.exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MaskweaveError, match=r"^cannot write .*/file/below: \w[\w ]+$"):
        write_whole(tmp_path / "file" / "below", b"")
