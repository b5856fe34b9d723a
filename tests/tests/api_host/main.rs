//! The API of a VMM in which no guest runs yet, driven by clients that nobody here wrote. It needs
//! no KVM, and with schemathesis it needs PyPI: it runs on this machine, never in the lab.

mod malformed;
mod schemathesis;
mod transcript;
mod workshop;
