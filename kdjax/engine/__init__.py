"""From one trial to the grid: steps, the lift over trials and devices, the loop."""
