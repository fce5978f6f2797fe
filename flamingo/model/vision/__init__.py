"""Vision encoders: pixels [B H W 3] in, a sequence of features [B S D] out."""
