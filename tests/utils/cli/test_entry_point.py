"""A disk that is full or read-only is one line and exit code 2, in every entry point."""

import errno

import pytest

from utils.cli.entry_point import cli


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.EDQUOT])
def test_a_disk_that_takes_nothing(number, capsys):
    @cli
    def main() -> None:
        raise OSError(number, "it is full", "/disk/file")

    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: cannot write /disk/file (it is full): make room")
    assert said.count("\n") == 1


def test_other_errors_of_the_system_are_not_hidden():
    @cli
    def main() -> None:
        raise OSError(errno.EBADF, "a mistake of ours")

    with pytest.raises(OSError, match="a mistake of ours"):
        main()
