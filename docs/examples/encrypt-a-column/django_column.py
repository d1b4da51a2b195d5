"""A field of Django that is text to the program and an envelope in the database."""

from functools import cache
from typing import Any

from django.conf import settings
from django.core.exceptions import FieldError
from django.db import models

from qimem_client import Envelope, Vault, bound, unbound


@cache
def vault() -> Vault:
    """One for the process. `QIMEM` in the settings holds url, client_id and client_secret."""
    return Vault(**settings.QIMEM)


class EncryptedTextField(models.TextField):
    """Text under one key of QIMEM. Each value is one request; see `Vault.decrypt_all` for many.

    Args:
        key: Name of the key. One for each column: an envelope of another column does not open here.
    """

    def __init__(self, *args: Any, key: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.key = key

    def deconstruct(self) -> Any:
        """For migrations."""
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, kwargs | {"key": self.key}

    def get_prep_value(self, value: Any) -> Any:
        """What goes into the database, by every way there is."""
        value = super().get_prep_value(value)
        if value is None or isinstance(value, Envelope):
            return value
        return vault().encrypt(self.key, value)

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> str | None:
        """What the program sees."""
        return None if value is None else vault().decrypt(self.key, value)

    def get_lookup(self, lookup_name: str) -> Any:
        """Two envelopes of one value differ: a search would find nothing, and not say so."""
        if lookup_name != "isnull":
            raise FieldError(f"{self.name} is encrypted: only isnull can be asked for")
        return super().get_lookup(lookup_name)


class Customer(models.Model):
    """`email` is bound to its column, `card` to its row too."""

    id = models.CharField(max_length=36, primary_key=True)
    email = EncryptedTextField(key="customers.email", null=True)
    bound_card = EncryptedTextField(key="customers.card", null=True, db_column="card")

    class Meta:
        """Needed here because the example is no installed app."""

        app_label = "customers"

    @property
    def card(self) -> str | None:
        """The number, if it is this customer's."""
        return None if self.bound_card is None else unbound(self.id, self.bound_card)

    @card.setter
    def card(self, number: str | None) -> None:
        self.bound_card = None if number is None else bound(self.id, number)


def add_all(cards: dict[str, str]) -> None:
    """Many new customers, id → card, in a request for 500 of them."""
    sealed = vault().encrypt_all("customers.card", [bound(row, number) for row, number in cards.items()])
    Customer.objects.bulk_create(
        Customer(id=row, bound_card=envelope) for row, envelope in zip(cards, sealed, strict=True)
    )


def all_cards() -> dict[str, str]:
    """Id → card of everybody who has one, in a request for 500 of them."""
    # As plain text, the column gives its envelopes.
    raw = models.ExpressionWrapper(models.F("bound_card"), output_field=models.TextField())
    rows = list(Customer.objects.filter(bound_card__isnull=False).values_list("id", raw))
    opened = vault().decrypt_all("customers.card", [envelope for _, envelope in rows])
    return {row: unbound(row, text) for (row, _), text in zip(rows, opened, strict=True)}
