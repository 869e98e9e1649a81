"""What a run of the training service is made of, and how it is really trained."""
