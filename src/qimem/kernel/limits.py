"""Every numeric limit of the product, in one place, with its unit and its reason."""

from __future__ import annotations

from typing import Final

# HTTP framing. Figures from the framing probes: slow clients are cut, honest ones never notice.
FIRST_BYTE_SECONDS: Final = 10.0
HEADERS_SECONDS: Final = 10.0
BODY_SECONDS: Final = 20.0
WRITE_STALL_SECONDS: Final = 20.0
KEEP_ALIVE_SECONDS: Final = 60.0
SWEEP_SECONDS: Final = 1.0
"""One timer per worker looks after every deadline; a timer per request cost 13 % of the rate."""
HEADER_BYTES_MAX: Final = 32 * 1024
HEADER_COUNT_MAX: Final = 100
URL_BYTES_MAX: Final = 8 * 1024
CONNECTIONS_MAX: Final = 10_000
"""Per worker; beyond it those that have been idle longest are closed for newcomers, who are closed at once when none is."""
CONNECTIONS_ROOM: Final = 100
"""Idle connections that are closed at once then: to look for each alone would cost more than to serve it."""
ACCEPTED_PER_TURN: Final = 64
"""New connections of a worker in one turn of its loop; the next ones wait with the system."""
PIPELINED_MAX: Final = 4_096
"""Requests of all connections of a worker together that wait for the answer to an earlier one of theirs."""

# Overload. A worker that is late refuses new requests before anything is done for them; ADR 0014.
TURN_SECONDS: Final = 0.015
"""Processor time of one turn of the event loop. `/health` waits for two at most, and is to be answered within 0.1 s."""
REST_SECONDS: Final = 2
"""Who was refused is told to come back after that long, and is not read for half of it up to all of it."""
BODIES_BYTES_MAX: Final = 24 * 1024 * 1024
"""Declared sizes of the bodies that are on their way to a worker; beyond it requests are refused before theirs is read."""
BODIES_ANONYMOUS_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of those that come without a good token: they need far less."""
LARGE_BODY_BYTES: Final = 64 * 1024
"""Larger ones take up to 10 ms a megabyte, and wait for a turn with time for them."""
LARGE_BYTES_PER_TURN: Final = 4 * 1024 * 1024
"""Or one body, however large."""
LARGE_BODIES_MAX: Final = 32
"""That wait for their turn."""
BODY_BYTES_FREE: Final = 4 * 1024
"""Smaller ones are not counted there: what nearly all requests need passes whatever others send."""
UNREAD_BYTES_MAX: Final = 24 * 1024 * 1024
"""Answers that a worker keeps for clients who do not read; beyond it those who have not read for longest are cut."""
QUEUE_AGE_SHARE: Final = 0.7
"""Where work has waited for so much of the time that a caller has for the database, no more is taken: whoever comes
would get no answer in time."""

# TLS.
HANDSHAKE_SECONDS: Final = 10.0
HANDSHAKES_MAX: Final = 2_048
"""Unfinished at once, per worker; one more cuts the oldest, so that a flood of them has to outrun honest clients."""
TLS_FILE_BYTES_MAX: Final = 512 * 1024
"""Of the certificates, the key and the authorities of clients, each."""
CERTIFICATE_WARNING_SECONDS: Final = 14 * 86_400

# Forwarded headers of peers that are no proxies.
STRAY_PEERS_MAX: Final = 1_024
"""Peers that are logged apart in one period, per worker."""
STRAY_PEERS_SECONDS: Final = 60.0
FORWARDED_HOPS_MAX: Final = 32

# Bodies. Decrypt takes more, so that every envelope handed out can be handed back.
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
DECRYPT_BODY_BYTES_MAX: Final = 6 * 1024 * 1024
JSON_DEPTH_MAX: Final = 32
BATCH_ITEMS_MAX: Final = 1_000
REQUEST_ID_CHARS_MAX: Final = 128
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
IDEMPOTENCY_SECONDS: Final = 24 * 3600
PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 200
CURSOR_CHARS_MAX: Final = 512

# Keys.
MESSAGES_PER_VERSION_MAX: Final = 2**32
"""NIST SP 800-38D §8.3: random 96-bit nonces under one key stay below 2^-32 repeat probability."""
LEASE_BLOCK_MIN: Final = 2**10
LEASE_BLOCK_MAX: Final = 2**20
ROOT_ROTATION_BATCH: Final = 200
"""Keys that one transaction of a root-key rotation moves: servers wait a few milliseconds for its lock."""
ROOT_ROTATION_WALKS_MAX: Final = 100
"""What is made while a rotation walks is found by the next walk; so many are a fault."""
KEYRING_ENTRIES_MAX: Final = 100_000
"""Unwrapped key versions a worker holds; about 1 KiB each."""

# Backups.
BACKUP_CHUNK_BYTES: Final = 64 * 1024
"""Sealed apart, so that a backup of any size passes through little memory."""
BACKUP_HEADER_BYTES_MAX: Final = 4 * 1024
BACKUP_FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
BACKUP_ROWS_AT_ONCE: Final = 500
RESTORE_MESSAGES_RESERVED: Final = 2**30
"""What a restore counts as encrypted since the backup, for each key version: a quarter of what one may encrypt at all."""

# Rate limits.
COUNTED_BUCKETS_MAX: Final = 131_072
"""Windows of a node that are counted apart, 40 bytes each; addresses beyond it displace addresses, never clients."""
COUNTER_LOOK_SECONDS: Final = 0.001
"""Who counts takes microseconds. One that takes longer was stopped, or has lost its processor."""
COUNTER_LOCK_SECONDS: Final = 0.1
"""How long the loop waits for one that has lost its processor: whoever counts alone meanwhile counts inexactly."""
COUNTER_LOCK_PAUSE_SECONDS_MAX: Final = 4.0
COUNTER_LOCK_PAUSE_SECONDS: Final = 0.25
"""After a wait in vain nobody waits for that long: a worker that stands still must not take the others' time."""
COUNTS_ALONE_MAX: Final = 16_384
REMEMBERED_BUCKETS_MAX: Final = 16_384
NODES_MAX: Final = 1_000
VALKEY_ANSWER_SECONDS: Final = 0.1
"""One that takes longer is taken for gone: rate limits must not be what makes requests late."""
VALKEY_RETRY_SECONDS: Final = 0.25
VALKEY_RETRY_SECONDS_MAX: Final = 4.0
VALKEY_BATCH_MAX: Final = 512
RATE_WINDOW_SECONDS_MAX: Final = 86_400

# Caches.
CACHED_REALMS_MAX: Final = 16_384
CACHED_ENTRIES_PER_REALM_MAX: Final = 20_000
PERMISSIONS_PER_CACHED_ENTRY: Final = 16
"""Some 3 KB at their longest: what a subject may do counts as so many entries."""
VERIFIED_TOKENS_MAX: Final = 50_000
RECENT_BEARERS_MAX: Final = 1_024
"""Headers kept as they came, so that their digest need not be made again; see `oauth.bearer`."""
RECENT_BEARER_CHARS_MAX: Final = 2_048

# Tokens.
ACCESS_TOKEN_SECONDS: Final = 900
REFRESH_TOKEN_SECONDS: Final = 86_400
REFRESH_GRACE_SECONDS: Final = 10
REFRESH_GRACE_SECONDS_MAX: Final = 60
CLOCK_SKEW_SECONDS: Final = 60
"""How far the clocks of two nodes may be apart. What was issued later than that is refused: after a clock that was
a day ahead is set right, its tokens would live a day longer, and a clock set back would revive what had expired."""
SIGNING_KEY_PERIOD_SECONDS: Final = 90 * 86_400
"""After this a signing key gets a successor by itself."""
SIGNING_KEY_LEAD_SECONDS: Final = 600
"""How long a successor is published before it signs: twice as long as key sets may be remembered."""
SIGNING_KEY_OVERLAP_SECONDS: Final = ACCESS_TOKEN_SECONDS + 2 * CLOCK_SKEW_SECONDS
"""How long a replaced key still vouches: as long as the last token it signed lives."""
SIGNING_KEYS_PUBLISHED_MAX: Final = 16
SIGNING_KEYS_LOOK_SECONDS: Final = 30
BEARER_CHARS_MAX: Final = 24 * 1024
"""Fits into the header limit with room for the rest. Longer is never issued, and refused before any base64 is decoded (Authlib CVE-2025-61920)."""

# Names and credentials.
PASSWORD_CHARS_MIN: Final = 8
PASSWORD_CHARS_MAX: Final = 256
PASSWORD_MIN_LENGTH_MAX: Final = 64
"""The most that a realm may ask for: NIST SP 800-63B-4 §3.1.1.2 has longer ones be possible, not demanded."""
USERNAME_CHARS_MAX: Final = 128
DISPLAY_NAME_CHARS_MAX: Final = 256
EMAIL_CHARS_MAX: Final = 254
CLIENT_ID_CHARS_MAX: Final = 128
PERMISSION_CHARS_MAX: Final = 128
PERMISSIONS_PER_ROLE_MAX: Final = 256
ROLES_PER_SUBJECT_MAX: Final = 64
REDIRECT_URIS_MAX: Final = 32
URI_CHARS_MAX: Final = 2_048
SCOPE_CHARS_MAX: Final = 1_024
CLIENT_METADATA_BYTES_MAX: Final = 64 * 1024
JWKS_KEYS_MAX: Final = 64
CLIENT_SECRET_OVERLAP_SECONDS_MAX: Final = 7 * 86_400
"""How long two secrets of a client may be good at once, while its instances take up the new one."""

# The second factor.
TOTP_BYTES: Final = 20
TOTP_BYTES_MIN: Final = 10
TOTP_BYTES_MAX: Final = 128
TOTP_PENDING_SECONDS: Final = 600
"""How long a secret waits to be confirmed: whoever finds it later has not enrolled it."""
TOTP_STEPS_KEPT_SECONDS: Final = 86_400
"""How long a used step is remembered: far longer than it could be good, whatever the clock does."""
TOTP_TEXT_CHARS_MAX: Final = 512
"""Of a shared secret in base32, with spaces and hyphens."""
RECOVERY_CODES: Final = 10
RECOVERY_CODE_BYTES: Final = 10
RECOVERY_CODES_KEPT_SECONDS: Final = 100 * 365 * 86_400
"""How long a used recovery code is remembered: longer than its user."""
MFA_CODE_CHARS_MAX: Final = 64

# Attempts to sign in.
ATTEMPTS_PER_ADDRESS_MAX: Final = 20
"""At one name from one address; then one in each period."""
ATTEMPTS_PER_NAME_MAX: Final = 60
"""At one name from everywhere; NIST SP 800-63B-4 §3.2.2 allows 100 in a row."""
ATTEMPT_PERIOD_SECONDS: Final = 60
KNOWN_ADDRESS_SECONDS: Final = 30 * 86_400
"""How long a user is let in from where they were, though strangers have locked the account."""
KNOWN_ADDRESS_NOTED_SECONDS: Final = 86_400
"""How often that is written down again."""

# The password lane: 19 MiB per running hash, so width times 19 MiB is its memory.
PASSWORD_LANE_WIDTH: Final = 2
PASSWORD_LANE_QUEUE_MAX: Final = 128
LOGINS_AT_ONE_NAME_MAX: Final = 64
"""That wait or are judged: one name must not take all places of the lane."""
PASSWORD_LANE_WAIT_SECONDS: Final = 5.0

# What one login may cost for a password hash that another system made.
IMPORTED_HASH_CHARS_MAX: Final = 512
IMPORTED_HASH_KIB_MAX: Final = 128 * 1024
"""Memory of Argon2; of scrypt, all its blocks together."""
IMPORTED_ARGON2_KIB_MAX: Final = 256 * 1024
"""Memory times passes: 0.3 s on the reference machine."""
IMPORTED_ARGON2_LANES_MAX: Final = 16
IMPORTED_BCRYPT_COST_MAX: Final = 14
"""1.1 s."""
IMPORTED_PBKDF2_ROUNDS_MAX: Final = 1_500_000
"""Of all blocks of the hash together, those of SHA-512 twice: 0.7 s."""
IMPORTED_TAG_BYTES_MAX: Final = 64
IMPORTED_LANE_WIDTH: Final = 1
"""Apart from the others: however dear a hash of one tenant is, the users of the others sign in."""
IMPORTED_LANE_QUEUE_MAX: Final = 8

# Storage.
GROUP_COMMIT_MAX: Final = 128
"""Operations that share one COMMIT: more adds latency without fewer syncs per operation."""
WRITE_QUEUE_MAX: Final = 4_096
WRITE_SECONDS: Final = 0.8
"""A disk that takes longer is taken for gone: who waits is answered within a second."""
INSTALL_SECONDS: Final = 60.0
"""Nobody waits on a wire for the first rows, and an installation of which nobody knows is of no use."""
POSTGRES_POOL_MAX: Final = 8
POSTGRES_RETRIES_MAX: Final = 14
"""Serializable transactions that only come near each other are told to try again too; the caller's time ends it."""
STORAGE_ANSWER_SECONDS: Final = 0.85
"""What one request waits for PostgreSQL, all its questions together: callers are answered within a second."""
BATCH_SECONDS: Final = 20.0
"""For all items of a batch together, each of which may wait as long as one request; the rest is refused."""
BACKGROUND_ANSWER_SECONDS: Final = 5.0
"""What start-up and background work wait for one answer."""
STATEMENT_TIMEOUT_SECONDS: Final = 5
"""The database ends what takes longer; whoever asked has left long before."""
ABANDONED_STATEMENT_SECONDS: Final = 1
"""How often the database looks whether who asked is still there; until it does, the locks stay."""
POSTGRES_CONNECT_SECONDS: Final = 2
"""The driver's least. Attempts go on without the request that began them."""
POSTGRES_IDLE_SECONDS: Final = 1.0
"""A connection that was not heard for longer may be dead without a sign."""
EPOCH_CONNECTIONS: Final = 4
"""Kept by each worker for epoch queries; one is used while answers come soon, the others when they do not."""
EPOCH_QUERIES_MAX: Final = 8
"""Epoch queries of a worker under way at once, when the database is slow."""
EPOCH_OVERTAKE_SECONDS: Final = 0.1
"""A query that takes longer is not waited for before the next one is sent."""
LEASE_SECONDS: Final = 0.1
"""Mode `bounded`: how long an epoch is believed, from before it was asked for."""
LEASE_POLL_SECONDS: Final = 0.025
"""How often it is asked for anew: three queries in a row may fail before a request has to wait."""
LEASE_RETRY_SECONDS: Final = 0.25
LEASE_IDLE_SECONDS: Final = 2.0
"""A realm that nobody asked for so long is not asked about any more, and a worker without requests asks nothing."""
LEASED_REALMS_MAX: Final = 1_024
"""Per worker, in one query; the rest is read strictly."""
BUSY_TIMEOUT_SECONDS: Final = 2.0
MIGRATION_WAIT_SECONDS: Final = 30.0
"""A process that meets another one migrating waits for it to end."""

# Audit log.
AUDIT_SEGMENT_BYTES: Final = 16 * 1024 * 1024
AUDIT_SEGMENT_IN_MEMORY_BYTES: Final = 1024 * 1024
"""Two are filled with zeros in advance: a throw-away server must not take what it never needs."""
AUDIT_BATCH_RECORDS_MAX: Final = 1_024
AUDIT_BATCH_BYTES_MAX: Final = 1024 * 1024
"""What one write may hold: records of large batches must not take the disk longer than callers wait."""
AUDIT_WAITING_MAX: Final = 16_384
"""Records that wait for the disk; beyond it requests are refused before anything is done."""
AUDIT_WRITE_SECONDS: Final = 0.8
"""A disk that takes longer is taken for gone: callers are answered within a second."""
AUDIT_ANSWER_SECONDS: Final = 0.95
"""From a record's submission to its caller's answer, the write before its own included."""
AUDIT_RETRY_SECONDS: Final = 0.25
AUDIT_INTERVAL_SECONDS: Final = 0.2
"""How long records gather in mode `interval`."""
AUDIT_CHECKPOINT_SECONDS: Final = 1.0
AUDIT_TIDY_SECONDS: Final = 1.0
AUDIT_SEGMENTS_SECONDS: Final = 10.0
"""How often sealed segments are looked after."""
AUDIT_FREE_LOW_BYTES: Final = 1024 * 1024 * 1024
AUDIT_FREE_LOW_SECONDS: Final = 24 * 3600.0
"""Less room for the log than this, or than this lasts at the rate of late, is warned of."""
AUDIT_FREE_SAMPLE_SECONDS: Final = 60.0
AUDIT_FORECAST_SECONDS: Final = 7_200.0
"""How much of the past the rate of late is made of: segments come and go in steps of megabytes."""
AUDIT_FORECAST_SAMPLES_MIN: Final = 10
AUDIT_ARCHIVE_SECONDS: Final = 60.0
AUDIT_REFUSALS_SECONDS: Final = 60.0
AUDIT_REFUSALS_MAX: Final = 4_096
"""Addresses and reasons that are counted apart in one minute."""
AUDIT_SEGMENTS_PER_QUESTION: Final = 8
AUDIT_QUESTIONS_MAX: Final = 4
"""Per worker, the running one included: each reads megabytes."""
AUDIT_SETTLE_SECONDS: Final = 60.0
AUDIT_OPEN_SECONDS: Final = 30.0
"""A record that is on its way for longer is looked for like one that nobody knows of."""
AUDIT_LAG_SECONDS: Final = 60
"""Between the making of a record and its place in the log; far more than any deadline allows."""

AUDIT_CHECKPOINT_RETRY_SECONDS: Final = 1.0
AUDIT_CHECKPOINT_RETRY_SECONDS_MAX: Final = 300.0
"""Between attempts to bring checkpoints to where nobody takes them; doubles with each."""
AUDIT_SINK_FILE_SECONDS: Final = 5.0
AUDIT_SINK_CLOSE_SECONDS: Final = 0.5
"""What the end of a server waits for the last checkpoints to be delivered: they are in the log in any case."""
AUDIT_CHECKPOINT_LINE_BYTES_MAX: Final = 4_096
"""Of a file of checkpoints; one takes some 400."""
AUDIT_SINK_SECRET_BYTES_MIN: Final = 16
AUDIT_SINK_SECRET_BYTES_MAX: Final = 1_024

# Requests that the server sends.
OUTBOUND_SECONDS: Final = 3.0
"""From the question for the address to the last byte of the answer."""
OUTBOUND_ANSWER_BYTES_MAX: Final = 64 * 1024
"""With its head."""
OUTBOUND_RESOLVING_MAX: Final = 4
"""Names at once: a resolver that hangs keeps its thread for half a minute."""
# Logs.
LOG_LINES_WAITING_MAX: Final = 1_024
"""Lines that wait for whoever reads standard error; beyond it they are dropped and counted."""
LOG_LINE_SECONDS: Final = 0.05
"""How long who logs waits for a line to be written; the next ones are not waited for until that one is."""

# Processes.
WORKERS_MAX: Final = 64
DRAIN_SECONDS: Final = 10.0
READY_SECONDS: Final = 2.0
"""A look at storage that takes longer fails; it goes on, and no other one begins before it ends."""
READY_REMEMBERED_SECONDS: Final = 0.5
"""Whoever asks has no token and no limit: however many ask, the database is asked once in this time."""
METRICS_SECONDS: Final = 1.0
"""How often a worker tells how it is."""
METRICS_STALE_SECONDS: Final = 5.0
"""Of a worker that has told nothing for so long nothing is shown: it is gone, or hangs."""
HEARTBEAT_SECONDS: Final = 1.0
HEARTBEAT_MISSED_SECONDS: Final = 10.0
WORKER_START_SECONDS: Final = 30.0
