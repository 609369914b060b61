"""The mutants, one module for each part of the code that they break."""
