"""`python -m qimem` is `qimem`."""

import sys

from qimem.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
