"""Where the heavy libraries live: what a model is, text to vectors, and vectors to neighbours."""
