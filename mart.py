"""`python -m mart`: the notebooks from the command line."""

import os
import sys

from mart_helpers.cli import main

if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # all is written and closed: to take the imported modules apart would take Python half a second
    os._exit(status)
