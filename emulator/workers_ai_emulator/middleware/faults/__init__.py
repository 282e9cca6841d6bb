"""What goes wrong on purpose: whose turn it is, and what is then answered."""
