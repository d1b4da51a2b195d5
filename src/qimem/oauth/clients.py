"""The life of clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from qimem.authz.decisions import require_everywhere, require_grantable
from qimem.authz.permissions import EVERYTHING, Permission
from qimem.crypto.mac import digest
from qimem.crypto.randomness import new_uuid, token_text
from qimem.errors import Conflict, Forbidden, InvalidFields, NotFound, realm_not_found
from qimem.identity.roles import RoleAssignment
from qimem.kernel.clock import MICROSECONDS, Clock, rfc3339
from qimem.kernel.context import Actor, ActorKind, RequestContext
from qimem.kernel.epochs import EpochSource
from qimem.kernel.ids import SYSTEM_REALM, ClientId, RealmId, is_client_id
from qimem.kernel.limits import CLIENT_SECRET_OVERLAP_SECONDS_MAX
from qimem.kernel.metering import DEFAULT_TIER
from qimem.kernel.secret import SecretText
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.oauth.client_metadata import merged
from qimem.oauth.models import AuthMethod, ClientRecord
from qimem.oauth.ports import ClientStore
from qimem.oauth.registration import Registration, fields_shown, shown
from qimem.wire.clients import Client, CreatedClient, RotatedClientSecret
from qimem.wire.common import Deleted
from qimem.wire.preconditions import Precondition

SECRET_PREFIX = "qcs_"  # noqa: S105 - lets secret scanners recognize what follows


class ClientService:
    """Clients of a realm."""

    def __init__(
        self,
        work: UnitOfWork,
        epochs: EpochSource,
        store: ClientStore,
        roles: RoleAssignment,
        clock: Clock,
        *,
        default_tier: str = DEFAULT_TIER,
    ) -> None:
        self._work = work
        self._epochs = epochs
        self._store = store
        self._roles = roles
        self._clock = clock
        self._default_tier = default_tier

    async def create(self, ctx: RequestContext, registration: Registration) -> CreatedClient:
        """Register a client; its secret is in this answer and nowhere else.

        Raises:
            Forbidden: without `clients:create`, giving a role beyond what the caller holds, or
                choosing a tier without running the platform.
            InvalidFields: unusable metadata.
            Invalid: `role_not_found`.
            NotFound: `realm_not_found`.
        """
        require_everywhere(ctx, Permission.CLIENTS_CREATE)
        if registration.tier is not None:
            _require_tiers(ctx.actor)
        insert = self.creation(ctx.actor, ctx.realm_id, registration)
        return await self._work.run(
            ctx,
            insert,
            CreatedClient,
            object_id=lambda client: client.client_id,
            holds_secret=registration.auth_method != AuthMethod.NONE,
        )

    def creation(
        self, actor: Actor, realm_id: RealmId, registration: Registration
    ) -> Callable[[Tx], CreatedClient]:
        """The change itself, validated; for a transaction to run."""
        checked = registration.checked()
        if registration.tier is None:
            checked = replace(checked, tier=self._default_tier)
        secret = None if checked.auth_method is AuthMethod.NONE else _new_secret()
        record = ClientRecord(
            realm_id=realm_id,
            client_id=ClientId(str(new_uuid())),
            secret_digest=None if secret is None else _digest(secret),
            enabled=True,
            roles=(),
            created_us=self._clock.now_us(),
            **asdict(checked),
        )

        def insert(tx: Tx) -> CreatedClient:
            if self._epochs.at(tx, realm_id) is None:
                raise realm_not_found(realm_id)
            client = replace(record, roles=self._roles.check(tx, actor, realm_id, registration.roles))
            self._store.insert(tx, client)
            told = None if secret is None else secret.reveal()
            return CreatedClient(**fields_shown(client), client_secret=told)

        return insert

    async def get(self, ctx: RequestContext, client_id: str) -> Client:
        """One client.

        Raises:
            Forbidden: without `clients:read`.
            NotFound: `not_found`.
        """
        require_everywhere(ctx, Permission.CLIENTS_READ)
        return shown(await self._work.read(lambda tx: self._found(tx, ctx, client_id)))

    async def list(
        self, ctx: RequestContext, after: str | None, limit: int
    ) -> tuple[list[Client], str | None]:
        """The realm's clients, in no order that means anything.

        Args:
            ctx: The caller and the realm.
            after: Id returned with the page before, or None for the first page.
            limit: 1–200 items.

        Returns:
            The items, and the id to go on from or None on the last page.

        Raises:
            Forbidden: without `clients:read`.
        """
        require_everywhere(ctx, Permission.CLIENTS_READ)
        rows = await self._work.read(
            lambda tx: self._store.page(tx, ctx.realm_id, after=after, limit=limit + 1)
        )
        page = rows[:limit]
        return [shown(row) for row in page], page[-1].client_id if len(rows) > limit else None

    async def update(
        self, ctx: RequestContext, client_id: str, changes: dict[str, Any], precondition: Precondition
    ) -> Client:
        """Register a client anew, with some fields changed.

        Args:
            ctx: The caller and the realm.
            client_id: Which.
            changes: Fields of `Registration` and their new values.
            precondition: What must be there now.

        Raises:
            Forbidden: without `clients:manage`, where the client may more than the caller, or choosing a tier
                without running the platform.
            InvalidFields: unusable metadata.
            NotFound: `not_found`.
            PreconditionFailed: it was changed meanwhile.
        """
        require_everywhere(ctx, Permission.CLIENTS_MANAGE)
        if "tier" in changes:
            _require_tiers(ctx.actor)

        def change(tx: Tx, found: ClientRecord) -> ClientRecord:  # noqa: ARG001 - as the others
            precondition.check(shown(found))
            before = Registration.of(found)
            wanted = dict(changes)
            if isinstance(wanted.get("jwks"), dict):
                wanted["jwks"] = merged(before.jwks, wanted["jwks"])
            return replace(found, **asdict(replace(before, **wanted).checked()))

        return shown(await self._change(ctx, client_id, change))

    async def set_enabled(self, ctx: RequestContext, client_id: str, *, enabled: bool) -> Client:
        """Let a client in or not: from the next request on no token of a disabled one opens anything, anywhere.

        Raises:
            Forbidden: without `clients:manage`, or where the client may more than the caller.
            NotFound: `not_found`.
            Conflict: `conflict`: nobody disables the client through which they are signed in.
        """

        def change(tx: Tx, found: ClientRecord) -> ClientRecord:  # noqa: ARG001 - as the others
            if not enabled:
                _check_other(ctx, client_id, "disables")
            return replace(found, enabled=enabled)

        return shown(await self._change(ctx, client_id, change))

    async def assign_roles(self, ctx: RequestContext, client_id: str, names: Sequence[str]) -> Client:
        """Give the client's own service account roles beside those it has.

        Raises:
            Forbidden: without `clients:manage`, or for a role, new or old, that carries what the caller lacks.
            Invalid: `role_not_found`, or more than 64 roles.
            NotFound: `not_found`.
        """
        return await self._change_roles(ctx, client_id, names, lambda held: [*held, *names])

    async def remove_roles(self, ctx: RequestContext, client_id: str, names: Sequence[str]) -> Client:
        """Take roles from the client's own service account; those that it does not have are none to take.

        Raises:
            Forbidden: without `clients:manage`, or where the client may more than the caller.
            Invalid: `role_not_found`.
            NotFound: `not_found`.
        """
        return await self._change_roles(
            ctx, client_id, names, lambda held: [name for name in held if name not in names]
        )

    async def rotate_secret(
        self, ctx: RequestContext, client_id: str, overlap_seconds: int
    ) -> RotatedClientSecret:
        """Give a client a new secret; it is in this answer and nowhere else.

        Args:
            ctx: The caller and the realm.
            client_id: Which.
            overlap_seconds: How long the secret before this one is still taken. 0: from the next request on it
                is not. The one before that is gone either way.

        Raises:
            Forbidden: without `clients:manage`, or where the client may more than the caller.
            InvalidFields: an overlap outside 0–604,800 seconds.
            NotFound: `not_found`.
            Conflict: `conflict`: a public client has none.
        """
        if not 0 <= overlap_seconds <= CLIENT_SECRET_OVERLAP_SECONDS_MAX:
            raise InvalidFields({"/overlap_seconds": f"0 to {CLIENT_SECRET_OVERLAP_SECONDS_MAX}"})
        require_everywhere(ctx, Permission.CLIENTS_MANAGE)
        secret = _new_secret()
        until_us = self._clock.now_us() + overlap_seconds * MICROSECONDS if overlap_seconds else None

        def rotate(tx: Tx) -> RotatedClientSecret:
            found = self._manageable(tx, ctx, client_id)
            if found.secret_digest is None:
                raise Conflict("a public client has no secret", hint="register a client with a secret")
            wanted = replace(
                found,
                secret_digest=_digest(secret),
                previous_digest=None if until_us is None else found.secret_digest,
                previous_until_us=until_us,
            )
            self._put(tx, ctx, wanted)
            return RotatedClientSecret(
                client_id=client_id,
                client_secret=secret.reveal(),
                previous_expires_at=None if until_us is None else rfc3339(until_us),
            )

        return await self._work.run(
            ctx, rotate, RotatedClientSecret, object_id=lambda rotated: rotated.client_id, holds_secret=True
        )

    async def delete(self, ctx: RequestContext, client_id: str) -> Deleted:
        """Remove a client for good, with every sign-in through it.

        Raises:
            Forbidden: without `clients:manage`, or where the client may more than the caller.
            NotFound: `not_found`.
            Conflict: `conflict`: nobody deletes the client through which they are signed in.
        """
        require_everywhere(ctx, Permission.CLIENTS_MANAGE)

        def change(tx: Tx) -> Deleted:
            self._manageable(tx, ctx, client_id)
            _check_other(ctx, client_id, "deletes")
            self._store.delete(tx, ctx.realm_id, client_id)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.target = client_id
            return Deleted(deleted=True)

        return await self._work.apply(ctx.draft, change)

    async def _change_roles(
        self,
        ctx: RequestContext,
        client_id: str,
        names: Sequence[str],
        outcome: Callable[[Sequence[str]], Sequence[str]],
    ) -> Client:
        def change(tx: Tx, found: ClientRecord) -> ClientRecord:
            self._roles.check(tx, ctx.actor, ctx.realm_id, names)
            roles = self._roles.check(tx, ctx.actor, ctx.realm_id, outcome(found.roles))
            self._store.set_roles(tx, ctx.realm_id, found.client_id, roles)
            return replace(found, roles=roles)

        return shown(await self._change(ctx, client_id, change))

    async def _change(
        self, ctx: RequestContext, client_id: str, outcome: Callable[[Tx, ClientRecord], ClientRecord]
    ) -> ClientRecord:
        require_everywhere(ctx, Permission.CLIENTS_MANAGE)

        def change(tx: Tx) -> ClientRecord:
            wanted = outcome(tx, self._manageable(tx, ctx, client_id))
            self._put(tx, ctx, wanted)
            return wanted

        return await self._work.apply(ctx.draft, change)

    def _put(self, tx: Tx, ctx: RequestContext, client: ClientRecord) -> None:
        self._store.update(tx, client)
        self._epochs.bump(tx, ctx.realm_id)
        ctx.draft.target = client.client_id

    def _found(self, tx: Tx, ctx: RequestContext, client_id: str) -> ClientRecord:
        # Only what can be an id is looked up: not every database can be asked for every text.
        found = None
        if is_client_id(client_id):
            found = self._store.find(tx, ctx.realm_id, client_id)
        if found is None:
            raise client_not_found(client_id)
        return found

    def _manageable(self, tx: Tx, ctx: RequestContext, client_id: str) -> ClientRecord:
        """The client, if the caller may do all that it may: otherwise a clerk could take its secret, and its roles."""
        found = self._found(tx, ctx, client_id)
        self._roles.check(tx, ctx.actor, ctx.realm_id, found.roles)
        if ctx.realm_id == SYSTEM_REALM:
            # Operators sign in through these: whoever ends one ends them.
            require_grantable(ctx.actor, (EVERYTHING,))
        return found


def client_not_found(client_id: object) -> NotFound:
    """One answer for absent clients and those of another realm."""
    return NotFound(f"client not found: {client_id}")


def _require_tiers(actor: Actor) -> None:
    if not actor.permissions.crosses_realms:
        raise Forbidden("limits:manage", resource="tier", hint="tiers are set by operators")


def _check_other(ctx: RequestContext, client_id: str, verb: str) -> None:
    actor = ctx.actor
    if actor.realm_id == ctx.realm_id and actor.client_id == client_id:
        itself = "itself" if actor.kind is ActorKind.CLIENT else "the client through which they are signed in"
        raise Conflict(f"nobody {verb} {itself}", hint="sign in through another client")


def _new_secret() -> SecretText:
    return SecretText(SECRET_PREFIX + token_text(32))


def _digest(secret: SecretText) -> bytes:
    return digest(secret.reveal().encode())
