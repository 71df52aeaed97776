"""Draws from the posterior of a tomogram, the scores they are learnt by, and the oracle that all must reproduce."""
