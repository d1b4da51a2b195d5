"""Everything HTTP. Imports services and wire types, never storage."""
