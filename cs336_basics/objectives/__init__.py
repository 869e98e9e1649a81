"""What a language model can be asked to predict: five objectives on the same layers and the same tokens."""
