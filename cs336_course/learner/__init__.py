"""Help for learners: what is installed, what is filled in, what comes next, and a submission that can be graded."""
