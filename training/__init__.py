"""Everything that is needed to fit a potential and nothing that inference needs."""
