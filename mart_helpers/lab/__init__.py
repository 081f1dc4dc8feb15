"""For learning and testing: synthetic inputs, inputs broken on purpose, and exercises."""
