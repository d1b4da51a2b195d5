"""Configuration: one file, one dataclass per section, and the origin of every value."""
