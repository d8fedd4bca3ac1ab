"""What judges pictures: face networks, quality, distances."""
