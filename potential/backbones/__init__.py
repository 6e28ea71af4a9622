"""Graph encoders, one architecture a module."""
