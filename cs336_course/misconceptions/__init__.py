"""Named wrong implementations: they explain a failing output, and they test the hidden suite."""
