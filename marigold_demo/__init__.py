"""Photo to depth to print: the public names and the version."""

import os

# Before torch: threads that wait for each other sleep. By default they spin, and on a busy machine a thread
# that spins uses up the time slice that the others need (`benchmarks/busy.py`: over 10 times slower).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
