"""`python -m harness`, the same as the command `harness`."""

import sys

from harness.cli import main

sys.exit(main())
