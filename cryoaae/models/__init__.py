"""Models: a model is a list of phases, each naming its parameters and its losses."""
