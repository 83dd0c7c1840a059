"""Reading photos and depth files, and writing depth, reliefs and meshes."""
