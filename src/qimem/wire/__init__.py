"""Request and response structs of the HTTP API, shared by the server, OpenAPI and clients. No behaviour.

Requests forbid unknown fields, so a typing slip never passes in silence. An optional field that is
`null` means absent. UUIDs are read in any case, with or without hyphens, and printed lower-case
with hyphens.
"""
