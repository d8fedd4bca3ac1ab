"""What is measured, and how sure we are: paired statistics over photos."""
