"""What an attacker does to photos before learning from them."""
