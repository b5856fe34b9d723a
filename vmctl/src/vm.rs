//! A VM that runs somewhere: its API, and what's made of it.

mod connection;

pub(crate) use self::connection::Connection;
