"""The Dagster deployment and the command line."""
