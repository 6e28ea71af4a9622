"""The report: one HTML file with everything in it, made from the results document."""
