//! EROFS file systems made from container images' layers.
