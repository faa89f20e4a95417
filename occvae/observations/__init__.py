"""What models observe of a shape: images, a point cloud, a voxel grid or labeled points."""
