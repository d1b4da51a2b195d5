"""After a crash: is everything there that a ledger holds, and is nothing half there?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence

from qimem.audit.events import Follower
from qimem.audit.log import DIRECTORY
from tests.support.api import Person
from tests.support.customers import (
    DECRYPT,
    KEYS,
    REFRESH,
    SLOW_DISK,
    TOKEN,
    Ledger,
    Lineage,
    Session,
)
from tests.support.load import Reply, Wire
from tests.support.server import Server

GRACE_SECONDS = 9
PATIENCE_SECONDS = 20


class _Questions(Wire):
    """Asks again what a slow disk put off."""

    def post(self, path: str, body: object = None, **headers: str) -> Reply:
        until = time.monotonic() + PATIENCE_SECONDS
        reply = super().post(path, body, **headers)
        while reply.code in SLOW_DISK and time.monotonic() < until:
            time.sleep(0.1)
            reply = super().post(path, body, **headers)
        return reply


class Auditor:
    """Asks the server for all that a ledger holds; `findings` tells what is not so."""

    def __init__(self, server: Server, person: Person) -> None:
        self.server, self.person = server, person
        self.findings: list[str] = []

    def examine(self, ledger: Ledger) -> None:
        self.findings += ledger.refusals + ledger.put_off
        with contextlib.closing(_Questions(self.server.url, self.person.access_token)) as wire:
            for session in ledger.sessions:
                # First of all, while those whose answer was lost may still ask again.
                self._session(wire, session)
            wire.token = self.person.access_token
            for lineage in ledger.lineages:
                self._lineage(wire, lineage)
            self._envelopes(wire, ledger.envelopes)
            for username in ledger.usernames:
                login = wire.post(TOKEN, self.person.credentials() | {"username": username})
                self._expect(login, 200, None, f"user {username}")

    def _expect(self, reply: Reply, status: int, code: str | None, what: str) -> None:
        if reply.short != (status, code):
            self.findings.append(f"lost: {what}: {reply.short}")

    def _lineage(self, wire: Wire, lineage: Lineage) -> None:
        reply = wire.get(f"{KEYS}/{lineage.key_id}")
        if reply.status != 200:
            self.findings.append(f"lost: {lineage}: {reply.short}")
            return
        versions = reply.body["versions"]
        numbers = [version["version"] for version in versions]
        active = [version["version"] for version in versions if version["active"]]
        newest = {lineage.version, lineage.version + 1} if lineage.in_doubt else {lineage.version}
        if numbers != list(range(1, len(numbers) + 1)) or active != numbers[-1:] or numbers[-1] not in newest:
            self.findings.append(f"lost: {lineage}: versions {numbers}, active {active}")

    def _envelopes(self, wire: Wire, envelopes: Sequence[tuple[str, str]]) -> None:
        for start in range(0, len(envelopes), 500):
            part = envelopes[start : start + 500]
            reply = wire.post(DECRYPT, {"items": [{"input": envelope} for envelope, _ in part]})
            self._expect(reply, 200, None, f"{len(part)} envelopes")
            for (_, text), item in zip(part, reply.body.get("items", ()), strict=reply.status == 200):
                if item.get("plaintext") != text:
                    self.findings.append(f"lost: envelope of {text}: {item}")

    def _session(self, wire: Wire, session: Session) -> None:
        dead, gone = (401, "invalid_token"), (400, "invalid_grant")
        wire.token = session.pair["access_token"]
        access = wire.get(KEYS)
        refresh = wire.post(REFRESH, {"refresh_token": session.pair["refresh_token"]})
        if session.in_doubt == "refresh":
            # Nobody knows whether it was spent; its owner gets a pair either way while the grace lasts.
            allowed = (
                {(200, None)} if time.monotonic() - session.asked < GRACE_SECONDS else {(200, None), gone}
            )
            if access.status != 200 or refresh.short not in allowed:
                self.findings.append(f"lost: an owner without an answer: {access.short} {refresh.short}")
        elif session.in_doubt == "revoke":
            if refresh.status != 200 and access.status == 200:
                self.findings.append(f"half revoked: {access.short} {refresh.short}")
        elif session.revoked:
            self._expect(access, *dead, f"revocation of {session.revoked}")
            self._expect(
                refresh,
                *(gone if session.revoked == "refresh_token" else (200, None)),
                f"after {session.revoked}",
            )
        else:
            self._expect(access, 200, None, "session")
            self._expect(refresh, 200, None, "refresh")
            if session.spent is not None:
                self._expect(wire.post(REFRESH, {"refresh_token": session.spent}), *gone, "spent token")


class Records:
    """The audit log as it grows; each record is read once. `acknowledged` is all that was looked for."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._follower = Follower(server.data / DIRECTORY)
        self._known: set[str] = set()
        self.acknowledged: set[str] = set()

    def missing(self, ledgers: Iterable[Ledger]) -> list[str]:
        """What was answered and has no record."""
        answered = {request for ledger in ledgers for request in ledger.request_ids}
        self.acknowledged |= answered
        self._known |= {record.request_id for record in self._follower.read()}
        return [f"lost: the record of {request}" for request in answered - self._known]
