"""From stored images to what the steps are fed."""
