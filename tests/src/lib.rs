//! Real boots with real kernels and real clients.
