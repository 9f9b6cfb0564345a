"""A slice of TPUs without having one: what fits, how long, how much."""
