//! Safe wrappers over what Linux offers a VMM: io_uring, TAP, guest-memory I/O, locks, signals.
