"""What [SEG] looks at: similarity maps, points and masks under other settings."""
