//! The API of a VMM with a guest in it, driven by clients that nobody here wrote, and by many at
//! once. Before the start: `tests/tests/api_host`.

mod clients;
mod sdk;
mod transcript;
mod workshop;
