"""What a user runs: molecular dynamics, relaxation, scans and screening."""
