"""What requests are about: users, roles, clients and realms of the fuzzer's own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.one_time import code_of

Ask = Callable[[str, Any, str | None], Any]
"""POSTs a body with a bearer token, and returns the JSON of the 200."""

PHRASE = "a-long-enough-phrase"
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
numbers = itertools.count()


def fresh(word: str) -> str:
    """A name that nobody used."""
    return f"{word}-{os.getpid()}-{next(numbers)}"


@dataclass(frozen=True)
class Things:
    """Makes them.

    Args:
        bearer: Of the realm's administrator.
        operator: Token of the operator.
        client: Id and secret of the realm's client.
    """

    ask: Ask
    bearer: str
    operator: str
    client: dict[str, str]

    def user(self, username: str | None = None, totp_secret: str | None = None) -> str:
        body = {"username": username or fresh("someone"), "password": PHRASE, "roles": []}
        if totp_secret is not None:
            body["totp_secret"] = totp_secret
        found: str = self.ask("/v1/auth/users", body, self.bearer)["id"]
        return found

    def role(self) -> str:
        found: str = self.ask("/v1/auth/roles", {"name": fresh("role"), "permissions": []}, self.bearer)[
            "name"
        ]
        return found

    def other_client(self) -> str:
        found: str = self.ask("/v1/auth/clients", {"redirect_uris": []}, self.bearer)["client_id"]
        return found

    def realm(self) -> str:
        found: str = self.ask("/v1/auth/realms", {"id": fresh("fuzzed"), "name": "fuzzed"}, self.operator)[
            "id"
        ]
        return found

    def token_of_another(self, totp_secret: str | None = None) -> str:
        """An access token of a user who may change how they sign in without harm to the others."""
        name = fresh("changer")
        self.user(name, totp_secret)
        try:
            return self._signed_in(name, totp_secret)
        except AssertionError:
            # It waited for Argon2id until the step of its code was past.
            return self._signed_in(name, totp_secret)

    def _signed_in(self, name: str, totp_secret: str | None) -> str:
        code = {} if totp_secret is None else {"totp_code": code_of(totp_secret, -1)}
        who = self.client | {"username": name, "password": PHRASE} | code
        found: str = self.ask("/v1/auth/token", who, None)["access_token"]
        return found

    def all(self) -> dict[str, str]:
        """Word in braces → the thing; of what is deleted there is another one for that, under its operation."""
        pending = self.token_of_another()
        secret = self.ask("/v1/auth/me/totp", {"current_password": PHRASE}, pending)["secret"]
        return {
            "code": code_of(SECRET),
            "pending_code": code_of(secret),
            "bearer.me.enrol-totp": self.token_of_another(),
            "bearer.me.confirm-totp": pending,
            "bearer.me.disable-totp": self.token_of_another(SECRET),
            "bearer.me.renew-recovery-codes": self.token_of_another(SECRET),
            "user_id": self.user(),
            "role": self.role(),
            "other_client": self.other_client(),
            "realm_id": self.realm(),
            "password": PHRASE,
            "doomed.users.delete": self.user(),
            "doomed.roles.delete": self.role(),
            "doomed.clients.delete": self.other_client(),
            "doomed.realms.delete": self.realm(),
            "bearer.me.change-password": self.token_of_another(),
        }
