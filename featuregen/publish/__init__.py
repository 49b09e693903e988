"""A dataset ready to publish: its folder, card and metadata."""
