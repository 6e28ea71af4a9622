"""Physical test suites, acceptance limits and reports that run on any checkpoint."""
