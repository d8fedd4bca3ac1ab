"""Making and measuring a defender: losses, teachers, the trainer, evaluation."""
