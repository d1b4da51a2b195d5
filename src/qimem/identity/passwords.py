"""The lane in which passwords are hashed.

Hashing takes 19 MiB and tens of milliseconds by design. It runs on its own few threads at a lower
priority, behind a bounded queue, so that a storm of logins costs logins and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from qimem.crypto.passwords import (
    OWASP_MINIMUM,
    PasswordMismatch,
    PasswordProfile,
    dummy_phc,
    hash_password,
    is_imported,
    is_outdated,
    verify_password,
)
from qimem.errors import Unavailable
from qimem.identity.ports import PepperSource
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import (
    IMPORTED_LANE_QUEUE_MAX,
    IMPORTED_LANE_WIDTH,
    PASSWORD_CHARS_MAX,
    PASSWORD_LANE_QUEUE_MAX,
    PASSWORD_LANE_WAIT_SECONDS,
    PASSWORD_LANE_WIDTH,
)
from qimem.kernel.secret import SecretBytes, SecretText

T = TypeVar("T")

_NICE = 10


def normalize_password(password: SecretText) -> str | None:
    """NFKC (NIST SP 800-63B-4 §3.1.1.2): the same keys typed on two keyboards are one password.

    Returns:
        None when no password that may be chosen can have been typed like this: it is too long.
    """
    # Decomposed, a character is at most four; more is not worked on, for this runs on the event loop.
    if len(password) > 4 * PASSWORD_CHARS_MAX:
        return None
    normalized = unicodedata.normalize("NFKC", password.reveal())
    return normalized if len(normalized) <= PASSWORD_CHARS_MAX else None


class PasswordLane:
    """Hashes and verifies passwords on threads of its own.

    Args:
        profile: Argon2id cost; weaker ones exist for tests only.
    """

    def __init__(self, peppers: PepperSource, profile: PasswordProfile = OWASP_MINIMUM) -> None:
        self._peppers = peppers
        self._profile = profile
        self._dummy = dummy_phc(profile)
        self._places = 0
        self._own = _Threads("password", PASSWORD_LANE_WIDTH, PASSWORD_LANE_QUEUE_MAX)
        self._imported = _Threads("imported-password", IMPORTED_LANE_WIDTH, IMPORTED_LANE_QUEUE_MAX)

    async def hash(self, realm_id: RealmId, password: str) -> str:
        """PHC string of a normalized password, peppered with the realm's secret.

        Raises:
            Unavailable: `overloaded`: too many passwords wait.
        """
        pepper = await self._peppers.pepper(realm_id)
        return await self._own.run(lambda: hash_password(password, pepper, self._profile))

    @contextmanager
    def place(self) -> Iterator[None]:
        """Keep a place for somebody whose password will be judged, before anything is written for them.

        Raises:
            Unavailable: `overloaded`: too many passwords wait.
        """
        if max(self._places, self._own.waiting) >= PASSWORD_LANE_QUEUE_MAX:
            raise _overloaded()
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    def is_outdated(self, phc: str, password: str) -> bool:
        """Whether a stored hash should be replaced now that its normalized password is known."""
        return is_outdated(phc, password, self._profile)

    async def verify(self, realm_id: RealmId, password: SecretText, phc: str | None) -> bool:
        """Whether the password matches; for an unknown user (no PHC) the same work, then false.

        Beside a hash that was imported the same work is done as well: a cheap one must not show by its time.

        Raises:
            Unavailable: `overloaded`.
        """
        normalized = normalize_password(password)
        pepper = await self._peppers.pepper(realm_id)
        imported = phc is not None and is_imported(phc)
        # Nobody has chosen an empty password, and one that is too long was never looked at.
        known = None if imported or not normalized else phc
        matched = await self._own.run(_check(known or self._dummy, normalized or "", pepper))
        if not imported or phc is None or not normalized:
            return matched and known is not None
        return await self._imported.run(_check(phc, normalized, pepper, password.reveal()))

    @property
    def waiting(self) -> int:
        """Passwords that are hashed or wait for it."""
        return self._own.waiting + self._imported.waiting

    def close(self) -> None:
        """Let running hashes end and start no more."""
        self._own.close()
        self._imported.close()


def _check(phc: str, normalized: str, pepper: SecretBytes, typed: str | None = None) -> Callable[[], bool]:
    def check() -> bool:
        try:
            verify_password(phc, normalized, pepper, typed)
        except PasswordMismatch:
            return False
        return True

    return check


class _Threads:
    """A few threads behind a bounded queue."""

    def __init__(self, name: str, width: int, waiting_max: int) -> None:
        self.waiting = 0
        self._waiting_max = waiting_max
        self._threads = ThreadPoolExecutor(width, thread_name_prefix=name, initializer=_lower_priority)

    async def run(self, work: Callable[[], T]) -> T:
        if self.waiting >= self._waiting_max:
            raise _overloaded()
        self.waiting += 1
        loop = asyncio.get_running_loop()
        submitted = self._threads.submit(work)
        # Who gives up may leave work behind that has begun: it keeps its place until it is done.
        submitted.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done))
        try:
            answer = asyncio.shield(asyncio.wrap_future(submitted))
            return await asyncio.wait_for(answer, PASSWORD_LANE_WAIT_SECONDS)
        except TimeoutError as error:
            raise _overloaded() from error
        finally:
            submitted.cancel()

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _done(self) -> None:
        self.waiting -= 1


def _overloaded() -> Unavailable:
    return Unavailable("too many logins at once", code="overloaded")


def _lower_priority() -> None:
    # On Linux niceness is per thread: hashing yields the core to the event loop.
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    except OSError:
        return
