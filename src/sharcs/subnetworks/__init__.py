"""What answers an input at a cost of its own, and its layers prepared for inference."""
