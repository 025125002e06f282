"""An HTTP service for a routed network that names one class for each text, and narrows before it refuses."""
