"""The credentials file: what the first start made, in a file that only its owner reads.

It is written beside its place before the installation is committed, and gets its name afterwards: whatever
ends the start in between, the next one finds credentials to every installation that there is.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qimem.kernel.durable import sync_directory
from qimem.kernel.refusal import Refused

if TYPE_CHECKING:
    from qimem.bootstrap.first import Installed

DEFAULT_FILE = Path("data.credentials.json")


def shown(installed: Installed, external_url: str | None) -> dict[str, str | None]:
    """What an installation tells its owner once. `password` stands in it only when it was generated."""
    answer = {
        "realm_id": installed.realm_id,
        "client_id": installed.client_id,
        "client_secret": installed.client_secret.reveal(),
        "username": installed.username,
    }
    if installed.password is not None:
        answer["password"] = installed.password.reveal()
    return answer | {
        "data_dir": installed.data_dir,
        "root_key_file": installed.root_key_file,
        "external_url": installed.external_url or external_url,
    }


class NoCredentials(Refused):
    """The file was read, and is not what was once written there."""


@dataclass(frozen=True, slots=True)
class CredentialsFile:
    """`<data-dir>.credentials.json`."""

    path: Path

    @classmethod
    def beside(cls, data_dir: Path) -> CredentialsFile:
        """The file that belongs to a data directory."""
        return cls(Path(f"{os.path.normpath(data_dir)}.credentials.json"))

    def exists(self) -> bool:
        """Whether it is there."""
        return self.path.exists()

    def reserve(self) -> None:
        """Take the name before anything is made, so that credentials never have nowhere to go.

        Raises:
            Refused: there are credentials in it already, or it cannot be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        if self._is_empty():
            # Reserved by a start that ended before there was anything to write.
            self.path.unlink(missing_ok=True)
        try:
            os.close(os.open(self.path, flags, 0o600))
        except FileExistsError as error:
            raise Refused(
                f"{self.path} exists, and this is a new installation", "move the old credentials file away"
            ) from error
        except OSError as error:
            raise Refused(
                f"cannot write {self.path}: {error.strerror}", "choose another --data-dir"
            ) from error

    def write(self, content: dict[str, str | None]) -> None:
        """Fill the reserved file, durably."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def prepare(self, content: dict[str, str | None]) -> None:
        """Put the content aside, durably; again replaces what was put aside before.

        What was there before may be the only way into an installation: it goes when the new one is on the disk.

        Raises:
            Refused: it cannot be written.
            OSError: it cannot be written in whole.
        """
        fresh = self._fresh
        fresh.abandon()
        fresh.reserve()
        fresh.write(content)
        fresh.path.rename(self._draft.path)
        sync_directory(self.path.parent)

    def publish(self) -> None:
        """Give what was put aside its name."""
        self._draft.path.rename(self.path)
        sync_directory(self.path.parent)

    def prepared(self) -> dict[str, Any] | None:
        """What was put aside by a start that ended before it could publish it; None: nothing, or nothing whole.

        Raises:
            Refused: it cannot be read; it may be the only way into the installation, and must not be taken for none.
        """
        if not self._is_empty() or not os.path.lexists(self._draft.path):
            return None
        try:
            return self._draft.read()
        except NoCredentials:
            return None

    def discard(self) -> None:
        """Forget what was put aside."""
        # Asked first: a start on a read-only file system has nothing to remove, and may not even try.
        for file in (self._draft, self._fresh):
            if os.path.lexists(file.path):
                file.abandon()

    def abandon(self) -> None:
        """Give the name back."""
        self.path.unlink(missing_ok=True)

    @property
    def _draft(self) -> CredentialsFile:
        return CredentialsFile(self.path.with_name(f".{self.path.name}.new"))

    @property
    def _fresh(self) -> CredentialsFile:
        return CredentialsFile(self.path.with_name(f".{self.path.name}.newer"))

    def _is_empty(self) -> bool:
        """Whether nothing would be lost if it were written."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return True
        return stat.S_ISREG(status.st_mode) and status.st_size == 0

    def read(self) -> dict[str, Any]:
        """The credentials.

        Raises:
            Refused: missing, not private, or not what `write` wrote.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise Refused(
                f"cannot read the credentials file {self.path}: {error.strerror}",
                "name it with --credentials",
            ) from error
        with os.fdopen(descriptor, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise Refused(f"{self.path} is open to others", f"chmod 600 {self.path}")
            try:
                content = json.loads(file.read())
            except ValueError as error:
                raise NoCredentials(f"{self.path} holds no credentials") from error
        if not isinstance(content, dict):
            raise NoCredentials(f"{self.path} holds no credentials")
        return content
