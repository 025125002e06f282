"""What is answered: labels, losses, how sure an answer is."""
