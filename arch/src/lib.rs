//! What an architecture must provide to boot a guest: pure functions and plain values, never a KVM handle.
