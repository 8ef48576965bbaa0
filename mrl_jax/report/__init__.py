"""The report's page: plain numbers in, one HTML file out."""
