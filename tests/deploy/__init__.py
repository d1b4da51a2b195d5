"""The files of `deploy/`: read, checked, and run as they are written."""
