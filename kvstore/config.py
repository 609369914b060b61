"""Settings of one node: frozen, with units in their names, checked against each other."""
