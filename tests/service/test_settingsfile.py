from __future__ import annotations

from pathlib import Path

import pytest

from wsconnkit.service.settingsfile import read_settings_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings"


def test_variables_are_read_as_of_such_a_file(file: Path) -> None:
    file.write_bytes(
        b"\xef\xbb\xbf# a comment, after the mark that editors of Windows write\r\n\r\n"
        b"export A=\"quoted\" # here\r\nB=${A}!\r\nEMPTY=\r\n  C = ' x '\r\nD='two\nlines'\n"
    )
    for given_as in (file, str(file)):
        values = {"A": "quoted", "B": "quoted!", "EMPTY": "", "C": " x ", "D": "two\nlines"}
        assert read_settings_file(given_as) == (values, [])


@pytest.mark.parametrize(
    "line", ["s3cret: 1", "s3cret 1", "s3cret:1", "s3cret", "=s3cret", "A='s3cret", "two words = s3cret"]
)
def test_lines_that_are_no_settings_are_told_by_number_alone(file: Path, line: str) -> None:
    file.write_text(f"# first\n\n\n{line}\nB=1\n")
    problem = f"line 4 of the file {str(file)!r} is no setting; write NAME=value"
    assert read_settings_file(file) == ({}, [problem])


def test_all_such_lines_are_told(file: Path) -> None:
    file.write_text("A=1\nPING_INTERVAL: 30000\nB=2\n\nexport JWT_SECRET\n")
    values, problems = read_settings_file(file)
    assert (values, [problem.split(" of ")[0] for problem in problems]) == ({}, ["line 2", "line 5"])


def test_a_file_that_cannot_be_read_is_no_file_without_settings(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_settings_file(file)
    with pytest.raises(OSError, match="directory"):
        read_settings_file(tmp_path)
    file.write_bytes(b"A=\xff\n")
    assert read_settings_file(file) == ({}, [f"the file {str(file)!r} is not UTF-8"])
