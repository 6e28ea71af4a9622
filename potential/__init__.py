"""Structure to energy, forces and stress: graph, encoder, heads, references, checkpoints."""
