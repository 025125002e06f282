"""What is known of encoders: pure, no model."""
