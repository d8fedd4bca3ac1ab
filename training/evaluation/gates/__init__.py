"""What a defender must do: displacement of photos protected whole, beside controls, and gates to pass."""
