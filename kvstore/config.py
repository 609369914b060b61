"""Settings of one node: frozen, units in their names, checked against each other."""
