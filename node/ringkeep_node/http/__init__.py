"""The HTTP edge of a node: it translates requests and answers, and decides nothing."""
