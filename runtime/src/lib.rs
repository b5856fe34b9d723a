//! Containers as virtual machines: their life, state on disk, logs and processes.
