"""The wishes without a browser: flags, commands, what a person at a terminal sees."""
