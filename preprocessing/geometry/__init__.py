"""Where pixels and voxels lie: letterbox, patches, working grid, resampling."""
