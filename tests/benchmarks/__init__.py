"""What is measured, never what is tested: speed against the peers, swaps under load, memory."""
