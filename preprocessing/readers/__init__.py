"""Images and volumes from files."""
