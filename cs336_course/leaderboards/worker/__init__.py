"""What runs inside the sandbox beside a participant's code."""
