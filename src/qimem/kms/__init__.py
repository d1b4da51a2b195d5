"""Keys and their versions, encryption with them, and custody of the root key."""
