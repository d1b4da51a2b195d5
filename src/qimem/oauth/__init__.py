"""Clients, grants and tokens: RFC 6749 and its relatives, one issue() for every grant type."""
