"""Named Markov decision processes, each with its source and its known answers."""
