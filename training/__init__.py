"""How a defender is made and measured: losses, teachers, the trainer, evaluation."""
