//! Versioned configuration, event and error types shared by the VMM and its clients.
