"""What people look at after a drop: figures, pictures, pages."""
