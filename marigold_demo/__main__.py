"""`python -m marigold_demo` is the command line."""

import sys

from marigold_demo.command_line.cli import main

sys.exit(main())
