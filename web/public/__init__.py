"""Pages and endpoints for members, trackers and providers."""
