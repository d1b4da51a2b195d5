"""AES-256-GCM in plain Python, from FIPS 197 and NIST SP 800-38D alone: slow, and made like nothing we ship.

Tables are computed from the definitions, so that a mistyped one cannot hide.
"""

from __future__ import annotations

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
_ROUNDS = 14


def _double(value: int) -> int:
    """Multiply by x in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197 §4.2)."""
    return (value << 1 ^ (0x11B if value & 0x80 else 0)) & 0xFF


def _multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = _double(a), b >> 1
    return product


def _substitute(value: int) -> int:
    """The S-box (FIPS 197 §5.1.1): the inverse, then an affine map."""
    inverse = next((candidate for candidate in range(256) if _multiply(value, candidate) == 1), 0)
    result = 0x63
    for turn in range(5):
        result ^= (inverse << turn | inverse >> 8 - turn) & 0xFF
    return result


SBOX = bytes(_substitute(value) for value in range(256))
_TWICE = bytes(_double(value) for value in range(256))
_SHIFTED = [(position + 4 * (position % 4)) % 16 for position in range(16)]


def expand_key(key: bytes) -> list[bytes]:
    """The 15 round keys (FIPS 197 §5.2)."""
    assert len(key) == KEY_BYTES
    words = [key[start : start + 4] for start in range(0, KEY_BYTES, 4)]
    constant = 1
    while len(words) < 4 * (_ROUNDS + 1):
        word = words[-1]
        if len(words) % 8 == 0:
            word = bytes(SBOX[octet] for octet in word[1:] + word[:1])
            word = bytes((word[0] ^ constant,)) + word[1:]
            constant = _double(constant)
        elif len(words) % 8 == 4:
            word = bytes(SBOX[octet] for octet in word)
        words.append(_xor(word, words[-8]))
    return [b"".join(words[start : start + 4]) for start in range(0, len(words), 4)]


def encrypt_block(round_keys: list[bytes], block: bytes) -> bytes:
    """One block of 16 bytes, column by column (FIPS 197 §5.1)."""
    state = _xor(block, round_keys[0])
    for number in range(1, _ROUNDS + 1):
        state = bytes(SBOX[state[source]] for source in _SHIFTED)
        if number < _ROUNDS:
            state = b"".join(_mix(state[start : start + 4]) for start in range(0, 16, 4))
        state = _xor(state, round_keys[number])
    return state


def _mix(column: bytes) -> bytes:
    every = column[0] ^ column[1] ^ column[2] ^ column[3]
    return bytes(column[row] ^ every ^ _TWICE[column[row] ^ column[(row + 1) % 4]] for row in range(4))


def ghash(subkey: bytes, data: bytes) -> bytes:
    """GHASH over whole blocks (SP 800-38D §6.4); bit 0 of a block is its leftmost."""
    multiples = [int.from_bytes(subkey)]
    for _ in range(127):
        value = multiples[-1]
        multiples.append(value >> 1 ^ (0xE1 << 120 if value & 1 else 0))
    tag = 0
    for start in range(0, len(data), 16):
        tag ^= int.from_bytes(data[start : start + 16])
        product = 0
        for position in range(128):
            if tag >> 127 - position & 1:
                product ^= multiples[position]
        tag = product
    return tag.to_bytes(16)


def seal(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Ciphertext followed by its tag, for a nonce of 96 bits (SP 800-38D §7.1)."""
    assert len(nonce) == NONCE_BYTES
    round_keys = expand_key(key)
    blocks = range(2, 2 + -(-len(plaintext) // 16))
    stream = b"".join(encrypt_block(round_keys, nonce + counter.to_bytes(4)) for counter in blocks)
    ciphertext = _xor(plaintext, stream[: len(plaintext)])
    lengths = (8 * len(associated_data)).to_bytes(8) + (8 * len(ciphertext)).to_bytes(8)
    hashed = ghash(
        encrypt_block(round_keys, bytes(16)), _padded(associated_data) + _padded(ciphertext) + lengths
    )
    return ciphertext + _xor(hashed, encrypt_block(round_keys, nonce + (1).to_bytes(4)))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def _xor(left: bytes, right: bytes) -> bytes:
    assert len(left) == len(right)
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(len(left))
