"""One study: people, cells, and the table."""
