"""From one trial to the grid: steps, their lift over trials, the loop."""
