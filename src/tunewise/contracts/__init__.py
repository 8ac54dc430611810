"""The types that cross a process or module boundary. No logic: what a value means, not what is done with it."""
