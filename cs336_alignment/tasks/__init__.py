"""Problems with answers that a program can check: generated ones, and readers of public test sets."""
