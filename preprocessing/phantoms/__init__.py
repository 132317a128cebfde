"""Made-up scans in the data sets' own layouts."""
