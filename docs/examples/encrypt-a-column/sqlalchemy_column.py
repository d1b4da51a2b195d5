"""A column of SQLAlchemy that is text to the program and an envelope in the database."""

import os
from typing import Any

from sqlalchemy import Column, Dialect, Text, select, type_coerce
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.sql.elements import Null
from sqlalchemy.types import TypeDecorator

from qimem_client import Envelope, Vault, bound, unbound

vault = Vault(os.environ["QIMEM_URL"], os.environ["QIMEM_CLIENT_ID"], os.environ["QIMEM_CLIENT_SECRET"])


class EncryptedText(TypeDecorator[str]):
    """Text under one key of QIMEM. Each value is one request; see `Vault.decrypt_all` for many.

    Args:
        key: Name of the key. One for each column: an envelope of another column does not open here.
    """

    impl = Text
    cache_ok = True

    class NullOnly(TypeDecorator.Comparator[str], Text.Comparator[str]):
        """Two envelopes of one value differ: a comparison would find nothing, and not say so."""

        def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
            """Only NULL can be asked for; and SQLAlchemy asks of two columns whether they are one."""
            if other and all(value is None or isinstance(value, Null | Column) for value in other):
                return super().operate(op, *other, **kwargs)
            raise TypeError("an encrypted column cannot be compared")

    comparator_factory = NullOnly

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """What goes into the database."""
        if value is None or isinstance(value, Envelope):
            return value
        return vault.encrypt(self.key, value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """What the program sees."""
        return None if value is None else vault.decrypt(self.key, value)


class Base(DeclarativeBase):
    """The tables of the application."""


class Customer(Base):
    """`email` is bound to its column, `card` to its row too. `card` is fetched when it is looked at."""

    __tablename__ = "customers"

    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str | None] = mapped_column(EncryptedText("customers.email"))
    bound_card: Mapped[str | None] = mapped_column("card", EncryptedText("customers.card"), deferred=True)

    @property
    def card(self) -> str | None:
        """The number, if it is this customer's."""
        return None if self.bound_card is None else unbound(self.id, self.bound_card)

    @card.setter
    def card(self, number: str | None) -> None:
        self.bound_card = None if number is None else bound(self.id, number)


def add_all(session: Session, cards: dict[str, str]) -> None:
    """Many new customers, id → card, in a request for 500 of them."""
    sealed = vault.encrypt_all("customers.card", [bound(row, number) for row, number in cards.items()])
    session.add_all(
        Customer(id=row, bound_card=envelope) for row, envelope in zip(cards, sealed, strict=True)
    )


def all_cards(session: Session) -> dict[str, str]:
    """Id → card of everybody who has one, in a request for 500 of them."""
    # As plain text, the column gives its envelopes.
    raw = type_coerce(Customer.bound_card, Text)
    rows = session.execute(select(Customer.id, raw).where(Customer.bound_card.is_not(None))).all()
    opened = vault.decrypt_all("customers.card", [envelope for _, envelope in rows])
    return {row: unbound(row, text) for (row, _), text in zip(rows, opened, strict=True)}
