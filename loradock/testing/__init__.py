"""What people need to test parts of their own against Loradock."""
