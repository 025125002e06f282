"""Files as bytes and lines, whatever is in them."""
