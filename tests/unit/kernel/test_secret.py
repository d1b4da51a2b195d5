"""Secrets are not printed, copied, kept as keys or compared by accident."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import logging
import pickle
import pprint
import string
import traceback
from collections.abc import Callable

import msgspec
import pytest

from qimem.kernel.secret import SecretBytes, SecretText

CANARY = "hunter2-canary"
BOTH = [SecretText(CANARY), SecretBytes(CANARY.encode())]


@dataclasses.dataclass
class Holder:
    secret: object


def printed(secret: object) -> str:
    output = io.StringIO()
    print(secret, [secret], file=output)
    return output.getvalue()


PRINTERS: dict[str, Callable[[object], str]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": format,
    "f-string": lambda secret: f"{secret} {secret!s} {secret!r} {secret!a} {secret:>40}",
    "percent": lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - what old code does
    "str.format": lambda secret: "{} {!r} {:s}".format(secret, secret, secret),  # noqa: UP032
    "template": lambda secret: string.Template("$a").substitute(a=secret),
    "a list": lambda secret: str([secret, (secret,), {"a": secret}]),
    "a dataclass": lambda secret: repr(Holder(secret)),
    "pprint": lambda secret: pprint.pformat({"a": [secret]}),
    "an exception": lambda secret: "".join(traceback.format_exception(ValueError(secret))),
    "print": printed,
}


@pytest.mark.parametrize("printer", PRINTERS)
@pytest.mark.parametrize("secret", BOTH, ids=["text", "bytes"])
def test_a_secret_prints_nothing_of_itself(secret: object, printer: str) -> None:
    found = PRINTERS[printer](secret)
    assert f"<{type(secret).__name__}>" in found
    assert CANARY not in found
    assert CANARY.encode().hex() not in found


@pytest.mark.parametrize("secret", BOTH, ids=["text", "bytes"])
def test_a_secret_is_not_logged(secret: object, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("qimem.test").error("a %s and %r", secret, secret, extra={"held": secret})
    assert CANARY not in caplog.text
    assert CANARY not in str(vars(caplog.records[0]))


REFUSED: dict[str, Callable[[object], object]] = {
    "pickle": pickle.dumps,
    "pickle, oldest": lambda secret: pickle.dumps(secret, 0),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy inside": lambda secret: copy.deepcopy([secret]),
    "asdict": lambda secret: dataclasses.asdict(Holder(secret)),
    "json": json.dumps,
    "json key": lambda secret: json.dumps({secret: 1}),
    "msgspec": msgspec.json.encode,
    "bytes": bytes,
    "concatenation": lambda secret: "a" + secret,
    "join": lambda secret: " ".join([secret] * 2),
    "iteration": list,
    "index": lambda secret: secret[0],
    "equality": lambda secret: secret == secret,
    "inequality": lambda secret: secret != "",
    "equality from the left": lambda secret: CANARY == secret,
    "membership": lambda secret: "" in ["a", secret],
    "order": lambda secret: sorted([secret, secret]),
    "hash": hash,
    "a set": lambda secret: {secret},
    "a new attribute": lambda secret: setattr(secret, "kept", 1),
    "vars": vars,
}


@pytest.mark.parametrize("use", REFUSED)
@pytest.mark.parametrize("secret", BOTH, ids=["text", "bytes"])
def test_a_secret_refuses_what_would_spread_it(secret: object, use: str) -> None:
    with pytest.raises((TypeError, AttributeError)) as caught:
        REFUSED[use](secret)
    assert CANARY not in str(caught.value)


def test_a_secret_is_revealed_when_asked() -> None:
    assert SecretText(CANARY).reveal() == CANARY
    assert bytes(SecretBytes(CANARY.encode()).reveal()) == CANARY.encode()


@pytest.mark.parametrize("secret", BOTH, ids=["text", "bytes"])
def test_a_secret_has_a_length(secret: SecretText | SecretBytes) -> None:
    assert len(secret) == len(CANARY)
    assert not type(secret)(type(secret.reveal())())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_secret_bytes_own_their_buffer(kind: type) -> None:
    source = bytearray(b"abc")
    secret = SecretBytes(kind(source))
    source[:] = b"xyz"
    assert secret.reveal() == b"abc"
    assert secret.reveal() is secret.reveal()


def test_wiped_bytes_are_zeros_wherever_they_were_revealed() -> None:
    secret = SecretBytes(b"abc")
    revealed = secret.reveal()
    secret.wipe()
    assert revealed == bytes(3)
    assert len(secret) == 3


@pytest.mark.parametrize(
    ("other", "equal"), [(b"abc", True), (bytearray(b"abc"), True), (b"abd", False), (b"ab", False), (b"abcd", False), (b"", False)]
)  # fmt: skip
def test_bytes_are_compared_on_purpose(other: bytes | bytearray, equal: bool) -> None:
    assert SecretBytes(b"abc").equals(other) is equal
