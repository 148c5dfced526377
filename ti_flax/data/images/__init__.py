"""Images: read, decoded, cut and resized, masked, sorted into shapes."""
