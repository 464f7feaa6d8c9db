"""The tests: a folder for each folder of the package, what they share in `helpers`, and beside them the whole."""
