"""Custody of the root key: where it is kept, and when it is neither read nor made."""
