"""`python -m marigold_demo` is the command line."""

import sys

from marigold_demo.cli.main import main

sys.exit(main())
