"""The command line: its commands, the training that they run, and the folder of a run."""
