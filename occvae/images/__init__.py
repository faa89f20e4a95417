"""From an image file or a camera to the pixels that a model receives."""
