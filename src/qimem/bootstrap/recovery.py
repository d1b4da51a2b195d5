"""A new operator for an installation whose operators are locked out: for who holds the host and its root key.

Whoever can run this could read everything anyway. What it must not be is silent: its record stands in the audit log,
beside the change, like that of every other one.
"""

from __future__ import annotations

from qimem.bootstrap.alone import on_the_host, opened_alone, written
from qimem.bootstrap.audit import AuditLog
from qimem.bootstrap.core import CLIENTS, ROLES, USERS, Core
from qimem.bootstrap.first import Installed, generated_password, handed_out, installer
from qimem.config.schema import Settings
from qimem.identity.new_user import CredentialMakers, NewUser
from qimem.identity.password_rules import NewPasswords, default_rules
from qimem.identity.roles import RoleAssignment
from qimem.identity.users import UserService
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.metering import UNLIMITED_TIER
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.oauth.clients import ClientService
from qimem.oauth.registration import Registration

EVENT = "operator.recover"


async def recover_operator(settings: Settings, root_key: SecretBytes, username: str) -> Installed:
    """Add an operator with a generated password, and a client to sign in through; servers may be running.

    Args:
        settings: Where the installation is.
        root_key: Taken over; wiped at the end.
        username: Of the new operator.

    Raises:
        Conflict: `already_exists`: the name is taken.
        InvalidFields: a name that cannot be one.
        Refused: no installation, another root key, or an audit log that cannot be written.
        Unavailable: storage or audit log cannot be written.
    """
    async with opened_alone(settings, root_key) as (core, log):
        password = generated_password()
        draft = on_the_host(EVENT)
        installed = await _add(settings, core, log, NewUser(username, password, ("operator",)), draft)
        await written(log.recorder, draft)
        return installed


async def _add(settings: Settings, core: Core, log: AuditLog, new: NewUser, draft: AuditDraft) -> Installed:
    clock, database, work = core.clock, core.database, core.unit_of_work(log.intents)
    roles = RoleAssignment(ROLES)
    # Whatever the realm asks of passwords: a rule that a generated one breaks must not shut the operators out.
    makers = CredentialMakers(NewPasswords(core.lane, default_rules), core.factors)
    users = UserService(work, database, USERS, roles, makers, clock)
    clients = ClientService(work, database, CLIENTS, roles, clock)
    add_user = await users.creation(installer(), SYSTEM_REALM, new)
    registration = Registration(redirect_uris=(), name="operator tools", tier=UNLIMITED_TIER)
    add_client = clients.creation(installer(), SYSTEM_REALM, registration)

    def change(tx: Tx) -> Installed:
        draft.target = str(add_user(tx).id)
        made = handed_out(settings, add_client(tx), new.username, new.password)
        database.bump(tx, SYSTEM_REALM)
        return made

    return await work.apply(draft, change)
