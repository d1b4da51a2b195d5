"""What every part of the HTTP face is made of."""
