"""What several workers, and later several nodes, keep in common beside the database."""
