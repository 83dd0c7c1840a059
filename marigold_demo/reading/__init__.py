"""What a visitor brings, read without trust: photos and depth files."""
