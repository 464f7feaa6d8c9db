"""The tests: one folder for each folder of the package, shared code in `helpers`, and at the top level the rest."""
