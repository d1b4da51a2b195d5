"""Pure bytes → bytes. The only importer of cryptographic libraries; no I/O, no clock."""
