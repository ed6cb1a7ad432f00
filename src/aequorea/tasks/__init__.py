"""What comes out, one file a task."""
