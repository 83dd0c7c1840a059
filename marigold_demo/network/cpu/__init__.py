"""What makes networks fast on a CPU: `optimize.optimize` installs it."""
