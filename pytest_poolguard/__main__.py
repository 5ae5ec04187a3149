"""``python -m pytest_poolguard``."""

import sys

from pytest_poolguard.cli import main

if __name__ == "__main__":
    sys.exit(main())
