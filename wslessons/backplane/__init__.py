"""Many servers, one conversation: the seam between a server and a message broker."""
