"""Words that every context shares: ids, clock, request context, secrets, limits, unit of work. Stdlib only."""
