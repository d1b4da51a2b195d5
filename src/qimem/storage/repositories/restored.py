"""What becomes of the rows of a backup when they begin to live again, over all realms at once."""

from __future__ import annotations

import sqlalchemy as sa

from qimem.kernel.limits import MESSAGES_PER_VERSION_MAX
from qimem.kernel.transaction import Tx
from qimem.storage.schema import instance, kms_version, oauth_grant
from qimem.storage.statement import sql

_RENEW = sql(sa.update(instance).values(incarnation=sa.bindparam("to_incarnation")))
_REVOKE = sql(
    sa.update(oauth_grant)
    .where(oauth_grant.c.revoked_us.is_(None))
    .values(revoked_us=sa.bindparam("now_us", type_=sa.BigInteger))
)
_RESERVED = sa.bindparam("reserved", type_=sa.BigInteger)
_LIMIT = sa.literal(MESSAGES_PER_VERSION_MAX, type_=sa.BigInteger)
_LEASED = kms_version.c.messages_leased
_RESERVE = sql(
    sa.update(kms_version).values(
        messages_leased=sa.case((_LIMIT - _LEASED <= _RESERVED, _LIMIT), else_=_LEASED + _RESERVED)
    )
)


class RestoredRows:
    """Changes to all rows, in the transaction that made them."""

    def renew(self, tx: Tx, incarnation: bytes) -> None:
        """Give the installation a new incarnation."""
        tx.run(_RENEW, to_incarnation=incarnation)

    def revoke_grants(self, tx: Tx, now_us: int) -> int:
        """Revoke every grant that lives; how many there were."""
        return tx.run(_REVOKE, now_us=now_us)

    def reserve_messages(self, tx: Tx, count: int) -> None:
        """Count so many messages more as encrypted, for every key version, up to the limit."""
        tx.run(_RESERVE, reserved=count)
