"""`python -m millrace_client.load`: the command `load`."""

import sys

from millrace_client.load.command import main

sys.exit(main())
