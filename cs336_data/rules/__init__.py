"""Rules that judge a text by counting: Gopher, C4, FineWeb, DCLM."""
