"""The attacker's side: teaches a person to a text-to-image model from a few photos, then draws that person."""
