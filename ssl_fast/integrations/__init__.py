"""Other libraries' code made faster: one module for each, which imports its library when used."""
