"""Treatments of photos by an attacker, before learning from them."""
