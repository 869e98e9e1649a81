"""Training data of our own classifiers, made by generators from word lists of this project."""
