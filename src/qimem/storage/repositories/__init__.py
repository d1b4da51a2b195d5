"""One repository a port: synchronous functions over a transaction that return domain models, never rows."""
