"""Gates that a defender must pass: displacement of photos protected whole, beside controls."""
