from __future__ import annotations

from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from qimem.bootstrap.core import JsonCodec
from qimem.bootstrap.database import location
from qimem.bootstrap.first import Installed
from qimem.bootstrap.serving import ENDPOINTS
from qimem.config.schema import DatabaseSettings, ServerSettings, Settings
from qimem.kernel.secret import SecretText
from qimem.wire.auth import RotatedSigningKey
from qimem.wire.realms import Realm, Role
from qimem.wire.security import KeyMetadata
from qimem.wire.users import User

ID = UUID("3fa85f64-5717-4562-b3fc-2c963f66afa6")
WHEN = "2026-11-24T12:00:00.000001Z"

STORED = [
    KeyMetadata(
        key_id=ID, lineage_id=UUID(int=0), version=2**31, active=True, enabled=False,
        algorithm="aes256_gcm", name=None, created_at=WHEN,
    ),
    KeyMetadata(
        key_id=ID, lineage_id=ID, version=1, active=False, enabled=True,
        algorithm="chacha20_poly1305", name="orders", created_at=WHEN,
    ),
    Realm(id="acme", name='Acmé "&" <Söhne>\n\u2028', issuer="https://id.example/realms/acme", created_at=WHEN),
    Role(name="cipher", permissions=["keys:encrypt", f"keys:decrypt:{ID}"], realm_id="acme"),
    Role(name="nothing", permissions=[], realm_id="acme"),
    RotatedSigningKey(kid="KTBNzVEhCyKxCkAqt4cc8e2qZEgGIlvvk6tTOVUyWNo"),
    User(id=ID, username="\U0001f600", realm_id="acme", roles=[], enabled=True, created_at=WHEN),
    User(id=ID, username="ada", realm_id="acme", roles=["a", "b"], enabled=False, created_at=WHEN, email="a@b.c"),
]  # fmt: skip
"""An answer of every kind that is kept for a replay."""


@pytest.mark.parametrize("answer", STORED, ids=lambda answer: type(answer).__name__)
def test_a_replayed_answer_is_byte_for_byte_the_first_one(answer: msgspec.Struct) -> None:
    codec = JsonCodec()
    again = codec.decode(codec.encode(answer), type(answer))
    assert again == answer
    assert msgspec.json.encode(again) == msgspec.json.encode(answer)


def test_every_idempotent_operation_whose_answer_is_kept_is_tried_above() -> None:
    answers = {endpoint.response for endpoint in ENDPOINTS if endpoint.idempotent}
    without_secret = {shape for shape in answers if "client_secret" not in shape.__struct_fields__}
    assert without_secret == {type(answer) for answer in STORED}


@pytest.mark.parametrize(("mode", "durable"), [("stateful", True), ("stateless", False)])
def test_data_that_is_not_kept_does_not_wait_for_the_disk(mode: str, durable: bool) -> None:
    found = location(Settings(database=DatabaseSettings(mode=mode)))
    assert (found.url, found.durable) == (None, durable)


def test_a_database_server_is_used_where_one_is_named() -> None:
    url = "postgresql://ada:phrase@db.example/qimem"
    settings = Settings(
        server=ServerSettings(data_dir=Path("data")), database=DatabaseSettings(url=SecretText(url))
    )
    assert (location(settings).url, location(settings).directory) == (url, Path("data"))


def test_what_is_handed_out_is_not_printed_by_accident() -> None:
    installed = Installed(
        realm_id="system", client_id="c", client_secret=SecretText("first phrase"), username="admin",
        password=SecretText("second phrase"), data_dir=None, root_key_file=None, external_url=None,
    )  # fmt: skip
    assert "phrase" not in f"{installed} {installed!r}"


def test_only_what_changes_nothing_may_be_decided_on_what_was_true_a_moment_ago() -> None:
    may_lag = {endpoint.name for endpoint in ENDPOINTS if endpoint.may_lag}
    assert {endpoint.name for endpoint in ENDPOINTS if endpoint.method != "GET" and endpoint.may_lag} == {
        "keys.encrypt", "keys.decrypt", "tokens.introspect", "authz.explain",
    }  # fmt: skip
    assert (
        not {
            endpoint.name
            for endpoint in ENDPOINTS
            if endpoint.idempotent or (endpoint.versioned and endpoint.request)
        }
        & may_lag
    )
