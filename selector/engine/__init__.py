"""How a step is done once, anywhere, whole or absent. It knows no step by name."""
