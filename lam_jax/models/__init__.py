"""Vision-language backbones, and what they share: batches, picture and token processing, positions."""
