"""Objects that hold key material show nothing of it, however they are printed."""

from __future__ import annotations

import copy
import pickle
import traceback
from pathlib import Path

import msgspec
import pytest

from qimem.crypto.aead import Aead
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.signatures import ES256Signer, generate_es256
from qimem.crypto.wrap import UnwrapFailed, WrapContext, unwrap, wrap
from qimem.kernel.secret import SecretBytes
from qimem.storage.database import DatabaseLocation
from qimem.wire import auth, authz, clients, common, factors, realms, security, users
from qimem.wire.common import Request, Response

KEY = b"0123456789abcdef0123456789ABCDEF"


def holders() -> list[object]:
    scalar = generate_es256()
    return [SecretBytes(KEY), Aead(Algorithm.AES256_GCM, SecretBytes(KEY)), scalar, ES256Signer(scalar)]


@pytest.mark.parametrize("holder", holders(), ids=lambda holder: type(holder).__name__)
def test_a_holder_of_secrets_prints_nothing_of_them(holder):
    for text in (repr(holder), str(holder), f"{holder}", f"{holder!r:>40}"):
        assert "0123456789" not in text
        assert KEY.hex() not in text
        assert "bytearray" not in text


@pytest.mark.parametrize("holder", holders(), ids=lambda holder: type(holder).__name__)
def test_a_holder_of_secrets_cannot_be_pickled(holder):
    with pytest.raises(TypeError):
        pickle.dumps(holder)


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_key_bytes_cannot_be_copied_by_accident(copier):
    # A copy would outlive wipe().
    with pytest.raises(TypeError):
        copier(SecretBytes(KEY))


def test_the_traceback_of_a_failed_unwrap_shows_no_key():
    context = WrapContext(bytes(16), "kms_version", "acme", bytes(16), 1, "encryption")
    wrapped = wrap(SecretBytes(bytes(32)), SecretBytes(KEY), context)
    try:
        unwrap(SecretBytes(KEY), wrapped, context)
    except UnwrapFailed as failure:
        shown = "".join(traceback.TracebackException.from_exception(failure, capture_locals=True).format())
    assert "0123456789" not in shown
    assert KEY.hex() not in shown


def test_what_comes_and_goes_over_the_wire_shows_none_of_its_fields():
    shapes = [
        value for module in (auth, authz, clients, common, factors, realms, security, users) for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Request | Response)
    ]  # fmt: skip
    assert len(shapes) > 30
    for shape in shapes:
        held = shape(**{field.name: "a secret" for field in msgspec.structs.fields(shape)})
        assert "secret" not in repr(held)
        assert "secret" not in f"{held} {[held]}"


def test_where_the_data_is_shows_no_password():
    assert "hidden" not in repr(DatabaseLocation(Path("/data"), "postgresql://user:hidden@host/db"))
