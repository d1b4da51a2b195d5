from __future__ import annotations

import base64
import json
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from qimem.crypto.aead import Aead
from qimem.crypto.algorithms import ENVELOPE_IDS
from qimem.crypto.envelope import (
    Envelope,
    EnvelopeWriter,
    decode_base64,
    from_json,
    parse_bytes,
    parse_envelope,
    to_json,
)
from qimem.errors import Invalid
from qimem.kernel.secret import SecretBytes

CODES = {"invalid_envelope", "unsupported_version", "unsupported_algorithm"}

octets = st.binary
envelopes = st.builds(
    Envelope,
    st.sampled_from(list(ENVELOPE_IDS)),
    octets(min_size=16, max_size=16),
    octets(min_size=12, max_size=12),
    octets(min_size=16, max_size=300),
)

# Bytes that get past the first judgements, so that the later ones are exercised as well.
heads = st.sampled_from(
    [b"", b"\1", b"\1\1", b"\1\2" + bytes(16), b"\1\1" + bytes(16) + b"\0\x0c" + bytes(12) + b"\0\0\0"]
)
near_envelopes = st.builds(lambda head, rest: head + rest, heads, octets(max_size=120))


def read_or_refused(reader, argument) -> Envelope | None:
    """Anything but an envelope or one of our own refusals escapes and fails the test."""
    try:
        return reader(argument)
    except Invalid as refusal:
        if refusal.code not in CODES:
            raise
        return None


def written(envelope: Envelope) -> str:
    return EnvelopeWriter(envelope.key_id, envelope.algorithm).encode(envelope.nonce, envelope.sealed)


@settings(deadline=None)
@given(envelopes)
def test_what_is_written_is_read_back_in_both_forms(envelope):
    assert parse_envelope(written(envelope)) == envelope
    assert from_json(to_json(envelope)) == envelope


@settings(deadline=None)
@given(st.sampled_from(list(ENVELOPE_IDS)), octets(min_size=32, max_size=32), octets(max_size=2_000))
def test_what_is_sealed_opens_after_the_way_through_an_envelope(algorithm, key, plaintext):
    cipher, nonce = Aead(algorithm, SecretBytes(key)), key[:12]
    writer = EnvelopeWriter(UUID(bytes=key[:16]), algorithm)
    envelope = parse_envelope(writer.encode(nonce, cipher.seal(nonce, plaintext, None)))
    assert cipher.open(envelope.nonce, envelope.sealed, None) == plaintext


@settings(deadline=None, max_examples=500)
@given(octets(max_size=200) | near_envelopes)
def test_any_bytes_are_an_envelope_in_its_one_spelling_or_refused(data):
    envelope = read_or_refused(parse_bytes, data)
    assert envelope is None or base64.b64decode(written(envelope)) == data


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=200) | st.text("ABab01+/=-_ \n", max_size=120))
def test_any_text_is_an_envelope_in_its_one_spelling_or_refused(text):
    envelope = read_or_refused(parse_envelope, text)
    assert envelope is None or written(envelope) == text


@settings(deadline=None, max_examples=300)
@given(
    octets(max_size=120).map(lambda data: base64.b64encode(data).decode()),
    st.integers(0, 200),
    st.characters(),
)
def test_one_changed_character_of_base64_leaves_another_canonical_text_or_none(text, position, character):
    position %= len(text) + 1
    for changed in (
        text,
        text[:position] + character + text[position:],
        text[:position] + character + text[position + 1 :],
    ):
        data = decode_base64(changed)
        assert data is None or base64.b64encode(data).decode() == changed


@settings(deadline=None, max_examples=1_000)
@given(st.text("AQgw/+=", max_size=13))
def test_exactly_the_canonical_base64_is_read(text):
    try:
        canonical = base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except ValueError:
        canonical = False
    assert (decode_base64(text) is not None) is canonical


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 300) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=16) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=20,
)


@settings(deadline=None)
@given(
    envelopes, st.sampled_from(["version", "algorithm", "key_id", "nonce", "ciphertext", "tag"]), json_values
)
def test_the_json_reader_takes_any_value_in_any_place_or_refuses_it(envelope, member, value):
    text = json.dumps(json.loads(to_json(envelope)) | {member: value})
    read = read_or_refused(from_json, text)
    assert read is None or from_json(to_json(read)) == read


@settings(deadline=None)
@given(st.text(max_size=100))
def test_the_json_reader_is_total(text):
    read_or_refused(from_json, text)
