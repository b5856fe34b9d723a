//! Container images: references, registries, the store, root file systems, builds.
