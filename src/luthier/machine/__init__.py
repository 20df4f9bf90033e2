"""What this machine has, and what of it is wrong. No torch here but in processes of their own."""
