"""Reports on a drop for people: figures, pictures, pages."""
