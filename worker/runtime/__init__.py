"""The worker itself: the loop that joins all rooms, and what only it uses."""
