"""The first operator as the flags name it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qimem.kernel.limits import PASSWORD_CHARS_MAX
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretText

if TYPE_CHECKING:
    from qimem.bootstrap.first import AdminChoice

_BYTES_MAX = PASSWORD_CHARS_MAX * 4 + 2


def choose_admin(username: str, password_file: Path | None) -> AdminChoice:
    """The operator to make.

    Args:
        username: Its name.
        password_file: Holds the password, one line; `-` is stdin; None: one is generated.

    Raises:
        Refused: the file cannot be read or is not one line of text.
    """
    from qimem.bootstrap.first import AdminChoice  # noqa: PLC0415 - heavy

    if password_file is None:
        return AdminChoice(username=username)
    try:
        if str(password_file) == "-":
            raw = sys.stdin.buffer.read(_BYTES_MAX + 1)
        else:
            with password_file.open("rb") as file:
                raw = file.read(_BYTES_MAX + 1)
        password = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise Refused(f"cannot read {password_file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{password_file} is not UTF-8 text") from error
    if "\n" in password or not password:
        raise Refused(f"{password_file} does not hold one line", "write the password alone into the file")
    return AdminChoice(username=username, password=SecretText(password))
