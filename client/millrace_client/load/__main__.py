"""`python -m millrace_client.load`: the command `load`."""

import sys

from millrace_client.load.command import main

if __name__ == "__main__":
    sys.exit(main())
