"""How good an aligned model is: generated answers, multiple choice, instructions, preferences, with their intervals."""
