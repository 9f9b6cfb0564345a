"""What a grid in one program costs, and what it saves."""
