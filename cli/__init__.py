"""The command line: one verb tree that parses, calls one function and prints."""
