"""The JSON API under /v1: one module a resource, each ending in its endpoint table."""
