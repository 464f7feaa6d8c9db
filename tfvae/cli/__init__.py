"""The command line: its commands, and what a run leaves in its folder."""
