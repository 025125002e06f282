"""What each way of running a network takes on this machine."""
